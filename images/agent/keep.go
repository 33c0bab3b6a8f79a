package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kept is a file of the new root that one of the guest's own file systems, which are moved over it, would hide.
type kept struct {
	path string // in the new root
	fd   int    // of an open file that only names it
	link string // its target, if it is a symbolic link
	dir  bool
}

// openKept opens what there is of the paths, which are clean and absolute in the new root. What is below one of them comes along with it.
func openKept(root string, paths []string) []kept {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	dirfd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(dirfd)
	var out []kept
	for _, path := range paths {
		if n := len(out); n > 0 && out[n-1].dir && strings.HasPrefix(path, out[n-1].path+"/") {
			continue
		}
		if k, err := openOne(dirfd, path); err == nil {
			out = append(out, k)
		}
	}
	return out
}

func openOne(dirfd int, path string) (kept, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(dirfd, path, &how)
	if err != nil {
		return kept{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return kept{}, err
	}
	k := kept{path: path, fd: fd, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			unix.Close(fd)
			return kept{}, err
		}
		k.link = string(target[:n])
	}
	return k, nil
}

// show makes k visible at its path in the root, which is the new one.
func (k kept) show() error {
	defer unix.Close(k.fd)
	if err := os.MkdirAll(filepath.Dir(k.path), 0o755); err != nil {
		return err
	}
	var err error
	switch {
	case k.link != "":
		err = os.Symlink(k.link, k.path)
	case k.dir:
		err = os.Mkdir(k.path, 0o755)
	default:
		err = os.WriteFile(k.path, nil, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) || k.link != "" {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", k.fd), k.path, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "keep", Path: k.path, Err: err}
	}
	return nil
}
