package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stile-vmm/stile/images"
)

// A guest that may change a folder can put a symbolic link in place of what is in there, and a later run that is given this path
// would follow it to any file of the host. So stile remembers which folders guests could change, and follows no link in them.

// writtenDir is the folder in the cache where each such folder has a file with its path.
const writtenDir = "written"

// maxWritten bounds how many are remembered.
const maxWritten = 1024

// noteWritten remembers the folders that a guest of s may change. In the nested host nothing is kept; there it was done outside.
func (s Spec) noteWritten() error {
	paths := s.writtenFolders()
	if len(paths) == 0 || Nested() {
		return nil
	}
	cache, err := images.Open("")
	if err != nil {
		return err
	}
	dir := filepath.Join(cache.Dir(), writtenDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, path := range paths {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(real))
		if err := os.WriteFile(filepath.Join(dir, hex.EncodeToString(sum[:16])), []byte(real), 0o600); err != nil {
			return fmt.Errorf("note that guests may change %s: %w", path, err)
		}
	}
	pruneWritten(dir)
	return nil
}

// pruneWritten forgets the folders that were noted longest ago.
func pruneWritten(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxWritten {
		return
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(b).Compare(age(a)) })
	for _, e := range entries[maxWritten:] {
		os.Remove(filepath.Join(dir, e.Name()))
	}
}

// writtenBefore returns the folders that guests could change.
func writtenBefore() []string {
	cache, err := images.Open("")
	if err != nil {
		return nil // it is told where it is needed
	}
	dir := filepath.Join(cache.Dir(), writtenDir)
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		if text, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			list = append(list, string(text))
		}
	}
	return list
}

// CheckLinks refuses a path that leads through a symbolic link which a guest could have made. what names it in the error.
func CheckLinks(what, path string) error {
	if path == "" || path == "-" || Nested() {
		return nil
	}
	return checkLinks(what, path, writtenBefore())
}

func checkLinks(what, path string, written []string) error {
	abs, err := filepath.Abs(path)
	if err != nil || len(written) == 0 {
		return err
	}
	at := "/"
	for name := range strings.SplitSeq(strings.TrimPrefix(abs, "/"), "/") {
		link := filepath.Join(at, name)
		info, err := os.Lstat(link)
		if err != nil {
			return nil // it is told where it is needed
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = link
			continue
		}
		if top := holder(written, at); top != "" {
			target, err := filepath.EvalSymlinks(link)
			if errors.Is(err, fs.ErrNotExist) {
				target, _ = os.Readlink(link)
			}
			return fmt.Errorf("%s %s: %s is a symbolic link in %s, which guests could change (--rw): if it is meant, name what it leads to, %s", what, path, link, top, target)
		}
		if at, err = filepath.EvalSymlinks(link); err != nil {
			return nil
		}
	}
	return nil
}

// holder returns the one of the folders that holds dir, "" for none.
func holder(folders []string, dir string) string {
	for _, f := range folders {
		if dir == f || strings.HasPrefix(dir, strings.TrimSuffix(f, "/")+"/") {
			return f
		}
	}
	return ""
}

// validateLinks checks all paths of the host that s names.
func (s Spec) validateLinks() error {
	var faults []error
	for _, f := range s.Folders {
		faults = append(faults, CheckLinks("--"+string(f.Mode), f.Host))
	}
	for _, d := range s.Disks {
		faults = append(faults, CheckLinks("--disk", d.Path))
	}
	for _, path := range s.Initramfs {
		faults = append(faults, CheckLinks("--initramfs", path))
	}
	if s.kernelIsPath() {
		faults = append(faults, CheckLinks("--kernel", s.Kernel))
	}
	if !s.rootIsWord() {
		faults = append(faults, CheckLinks("--root", s.Root))
	}
	return errors.Join(append(faults, CheckLinks("--modules", s.Modules))...)
}
