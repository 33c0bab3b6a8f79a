package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// What L1 writes is lost with it, except below the paths of Config.Writable: those are mounted from a second share,
// whose folder is the deepest one that they have in common. A machine without such paths has an empty folder there.

// writableMount is where L1 has that share. /run is in memory.
const writableMount = "/run/stile-writable"

// writable is what of the host's files L1 may change.
type writable struct {
	folder string   // that QEMU shares; "" for nothing
	paths  []string // files and folders in it or itself, without symbolic links
}

// findWritable resolves the paths. Two may be the same.
func findWritable(paths []string) (writable, error) {
	var w writable
	var faults []error
	for _, path := range paths {
		resolved, dir, err := resolveWritable(path)
		if err != nil {
			faults = append(faults, fmt.Errorf("the lab can't write to %s: %w", path, err))
			continue
		}
		if slices.Contains(w.paths, resolved) {
			continue
		}
		w.paths = append(w.paths, resolved)
		if w.folder == "" {
			w.folder = dir
		}
		w.folder = commonFolder(w.folder, dir)
	}
	// What holds others is mounted first.
	slices.Sort(w.paths)
	return w, errors.Join(faults...)
}

// resolveWritable returns path without symbolic links, and the folder that must be shared for it.
func resolveWritable(path string) (resolved, dir string, err error) {
	if resolved, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	if resolved, err = filepath.EvalSymlinks(resolved); err != nil {
		return "", "", err
	}
	info, err := os.Stat(resolved)
	switch {
	case err != nil:
		return "", "", err
	case info.IsDir():
		return resolved, resolved, checkPlace(resolved)
	case !info.Mode().IsRegular():
		return "", "", errors.New("only regular files and folders of this host reach the nested one, not its devices")
	}
	return resolved, filepath.Dir(resolved), checkPlace(resolved)
}

// checkPlace refuses what L1 has of its own, and what this user may not write to.
func checkPlace(path string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return fmt.Errorf("%s is the kernel's, and the nested host has one of its own", dir)
		}
	}
	return unix.Access(path, unix.W_OK)
}

// commonFolder returns the deepest folder that holds both or is them.
func commonFolder(a, b string) string {
	for a != b {
		if len(a) > len(b) {
			a = filepath.Dir(a)
		} else {
			b = filepath.Dir(b)
		}
	}
	return a
}

// mounts puts the paths over L1's view of them. Nothing is cached, so that a write that was
// answered is the host's, however L1 ends.
func (w writable) mounts() []agentproto.Mount {
	if w.folder == "" {
		return nil
	}
	list := []agentproto.Mount{{
		Kind: agentproto.Mount9P, Source: writableTag, Target: writableMount, Options: "cache=none",
	}}
	for _, path := range w.paths {
		inside := strings.TrimPrefix(path, w.folder)
		list = append(list, agentproto.Mount{
			Kind: agentproto.MountBind, Source: filepath.Join(writableMount, inside), Target: path,
		})
	}
	return list
}
