package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// What L1 writes is lost with it, except below the paths of Config.Writable: those are mounted from shares of their own, one for
// each folder that none of the others holds. The machine has a number of these devices; those that are not needed have an empty
// folder behind them.

// writableMount is where L1 has those shares, each in a folder with its number. /run is in memory.
const writableMount = "/run/stile-writable"

// writable is what of the host's files L1 may change.
type writable struct {
	folders []string // that QEMU shares, none in another
	paths   []string // files and folders in them or themselves, without symbolic links
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
		w.folders = append(w.folders, dir)
	}
	// What holds others is mounted first.
	slices.Sort(w.paths)
	w.folders = outermost(w.folders)
	if len(w.folders) > maxWritable {
		faults = append(faults, fmt.Errorf("the lab can write to %d folders of this host, not to %d: name one above them", maxWritable, len(w.folders)))
	}
	return w, errors.Join(faults...)
}

// outermost returns the folders that lie in no other one.
func outermost(dirs []string) []string {
	slices.Sort(dirs)
	var list []string
	for _, dir := range dirs {
		if !slices.ContainsFunc(list, func(above string) bool { return holds(above, dir) }) {
			list = append(list, dir)
		}
	}
	return list
}

// holds reports whether path is dir or below it.
func holds(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
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

// mounts puts the paths over L1's view of them. Nothing is cached, so that a write that was
// answered is the host's, however L1 ends.
func (w writable) mounts() []agentproto.Mount {
	var list []agentproto.Mount
	for i := range w.folders {
		list = append(list, agentproto.Mount{
			Kind: agentproto.Mount9P, Source: writableName(i), Target: writablePlace(i), Options: "cache=none",
		})
	}
	for _, path := range w.paths {
		i := slices.IndexFunc(w.folders, func(dir string) bool { return holds(dir, path) })
		inside := strings.TrimPrefix(path, w.folders[i])
		list = append(list, agentproto.Mount{
			Kind: agentproto.MountBind, Source: filepath.Join(writablePlace(i), inside), Target: path,
		})
	}
	return list
}

func writablePlace(i int) string { return filepath.Join(writableMount, strconv.Itoa(i)) }
