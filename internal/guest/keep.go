package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/internal/bytejson"
)

// ownFolders are those of which a guest has its own, empty at its start, also in a view of the host's root.
var ownFolders = []string{"/run", "/dev/shm"}

// envKept carries to a process in the nested host what keptPaths returned outside, as JSON.
const envKept = "STILE_KEPT"

// maxKept bounds the paths that keptPaths returns.
const maxKept = 64

// keptPaths returns the paths of the host below ownFolders that the guest's own don't hide: programs, the working
// directory, temporary files and the kernel's modules are at their paths. They are the folders of more, of this process and of its environment, and the
// symbolic links to elsewhere, such as /run/current-system where NixOS and Guix have all programs. Sockets and
// states of the host's services stay hidden. A path in more that is not absolute is passed over.
//
// In the nested host they are those of the host outside, which are there, too.
func keptPaths(more ...string) []string {
	paths := append([]string{}, more...)
	var outside []string
	if text := os.Getenv(envKept); text != "" && Nested() && bytejson.Unmarshal([]byte(text), &outside) == nil {
		paths = append(paths, outside...)
	}
	if dir, err := os.Getwd(); err == nil {
		paths = append(paths, dir)
	}
	for _, name := range []string{"HOME", "TMPDIR", "GOTMPDIR", "GOCACHE", "GOROOT", "GOPATH", "SHELL"} {
		paths = append(paths, os.Getenv(name))
	}
	paths = append(paths, filepath.SplitList(os.Getenv("PATH"))...)
	links, _ := filepath.Glob("/run/*") // the pattern is well formed
	for _, path := range links {
		if target, err := os.Readlink(path); err == nil && filepath.IsAbs(target) && !isOwn(target) {
			paths = append(paths, path)
		}
	}
	var kept []string
	for _, path := range paths {
		if path = filepath.Clean(path); isOwn(path) && !slices.Contains(kept, path) && len(kept) < maxKept {
			kept = append(kept, path)
		}
	}
	return kept
}

// isOwn reports whether a path is below one of ownFolders.
func isOwn(path string) bool {
	return slices.ContainsFunc(ownFolders, func(own string) bool { return strings.HasPrefix(path, own+"/") })
}
