// Package trust tells which folders only the caller and root can change. A program that runs as root must not
// load, run or overwrite what is reached through a folder of another user: that user may exchange it at any time.
package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the symbolic links of one path, as Linux does.
const maxLinks = 40

// Check returns an error unless path, and every folder and link on the way to it, belongs to uid or root and can't be
// changed by others. What does not exist yet passes, as it will be the caller's. A folder on the way may be writable for all where
// it is sticky, as /tmp is; path itself may not. The error names the folder and its owner.
func Check(path string, uid int) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	w := walk{uid: uint32(uid), unmapped: unmappedOwner()}
	return w.path("/", abs, true)
}

// Root is Check where the caller is root, and nil otherwise: others risk no rights but their own.
func Root(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return Check(path, 0)
}

// TempDir returns the folder for temporary files: for root not one that another user could exchange.
func TempDir() string {
	dir := os.TempDir()
	if os.Geteuid() == 0 && CheckParent(dir) != nil {
		return "/tmp"
	}
	return dir
}

// CheckParent is Root for a folder in which the caller makes entries of its own: a sticky one will do.
func CheckParent(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return Check(filepath.Join(dir, "entry-of-the-caller"), 0)
}

// walk follows one path.
type walk struct {
	uid      uint32
	unmapped int64 // the owner that stands for users of an outer user namespace, -1 for none
	links    int
}

// path follows rest from the folder at, whose own parents were checked. last says whether rest ends the whole path.
func (w *walk) path(at, rest string, last bool) error {
	names := strings.FieldsFunc(rest, func(r rune) bool { return r == '/' })
	if filepath.IsAbs(rest) {
		at = "/"
		if err := w.entry(at, last && len(names) == 0); err != nil {
			return err
		}
	}
	for i, name := range names {
		end := last && i == len(names)-1
		at = filepath.Join(at, name) // ".." too: only of checked folders without links
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.entry(at, end); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if at, err = w.link(at, end); err != nil || at == "" {
			return err
		}
	}
	return nil
}

// link checks where a link leads and returns that path, without links; "" when nothing is there.
func (w *walk) link(at string, last bool) (string, error) {
	if w.links++; w.links > maxLinks {
		return "", &fs.PathError{Op: "follow", Path: at, Err: unix.ELOOP}
	}
	target, err := os.Readlink(at)
	if err != nil {
		return "", err
	}
	if err := w.path(filepath.Dir(at), target, last); err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(at)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return real, err
}

// entry checks one folder, file or link.
func (w *walk) entry(path string, last bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Uid != 0 && st.Uid != w.uid && int64(st.Uid) != w.unmapped {
		return fmt.Errorf("%s belongs to user %d", path, st.Uid)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mode&unix.S_ISVTX != 0 && !last {
		return nil
	}
	if st.Mode&unix.S_IWOTH != 0 || st.Mode&unix.S_IWGRP != 0 && st.Gid != 0 {
		return fmt.Errorf("%s can be changed by other users (mode %#o, group %d)", path, st.Mode&0o7777, st.Gid)
	}
	return nil
}

// unmappedOwner returns the owner that files of users outside of this user namespace seem to have, the host's root
// among them; -1 in the initial namespace, where each user is himself.
func unmappedOwner() int64 {
	text, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, n int64
	if _, scanErr := fmt.Sscan(string(text), &inside, &outside, &n); err != nil || scanErr != nil {
		return -1
	}
	if inside == 0 && outside == 0 && n == 1<<32-1 {
		return -1
	}
	const overflow = 65534 // DEFAULT_OVERFLOWUID of linux/highuid.h
	return overflow
}
