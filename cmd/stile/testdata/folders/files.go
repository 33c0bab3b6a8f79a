package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const errReadOnly = unix.EROFS

// fileChecks are what system calls do.
var fileChecks = []check{
	{"owners", nil, false, owners},
	{"sparse file", nil, false, sparse},
	{"locks", nil, false, locks},
	{"shared mapping", nil, false, sharedMapping},
	{"attributes", nil, false, attributes},
	{"hard links", nil, false, hardLinks},
	{"special files", nil, false, specialFiles},
	{"names", nil, false, names},
	{"no name any more", nil, false, unnamed},
	{"links that lead out", nil, false, leadOut},
	{"renames during a walk", nil, false, renames},
}

// owners gives a file away and takes set-user-ID, and both are there.
func owners(dir string) error {
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chown(file, 12, 34), unix.Chmod(file, 0o4755)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Uid != 12 || st.Gid != 34 || st.Mode != unix.S_IFREG|0o4755 {
		return fmt.Errorf("%d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	return nil
}

// sparse writes behind a hole of 5 GiB.
func sparse(dir string) error {
	const size = 5 << 30
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("end"), size); err != nil {
		return err
	}
	b := make([]byte, 8)
	if n, _ := f.ReadAt(b, size-2); n != 5 || string(b[:n]) != "\x00\x00end" {
		return fmt.Errorf("at the end: %q", b[:n])
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Size != size+3 || st.Blocks*512 > 1<<20 {
		return fmt.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	return nil
}

// again runs this program as a second process.
func again(args ...string) error {
	out, err := exec.Command("/proc/self/exe", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the second process: %w: %s", err, out)
	}
	return nil
}

// locks takes both kinds, which keep a second process out.
func locks(dir string) error {
	file := filepath.Join(dir, "file")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := again("locked", file); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := unix.Flock(fd, unix.LOCK_UN); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 10}); err != nil {
		return fmt.Errorf("fcntl: %w", err)
	}
	if err := again("locked", file); err != nil {
		return fmt.Errorf("fcntl: %w", err)
	}
	return nil
}

// locked fails if the file can be locked both ways.
func locked(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	whole := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if whole == nil {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	}
	bytes := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 7, Len: 1})
	if whole == nil && bytes == nil {
		return errors.New("the lock was to be had")
	}
	return nil
}

const page = 4096 // bytes

func mapFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// sharedMapping writes to a mapping; a second process sees it in its own, and the file has it when both are gone.
func sharedMapping(dir string) error {
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, page), 0o644); err != nil {
		return err
	}
	mem, err := mapFile(file)
	if err != nil {
		return err
	}
	copy(mem, "first")
	if err := again("mapped", file); err != nil {
		return err
	}
	if !bytes.HasPrefix(mem, []byte("first second")) {
		return fmt.Errorf("mapped: %q", mem[:12])
	}
	if err := unix.Munmap(mem); err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(b, []byte("first second")) {
		return fmt.Errorf("read: %q, %w", b[:min(12, len(b))], err)
	}
	return nil
}

func mapped(file string) error {
	mem, err := mapFile(file)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(mem, []byte("first")) {
		return fmt.Errorf("mapped: %q", mem[:12])
	}
	copy(mem[5:], " second")
	return unix.Msync(mem, unix.MS_SYNC)
}

func attributes(dir string) error {
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	value := strings.Repeat("value", 100)
	if err := unix.Setxattr(file, "user.name", []byte(value), 0); err != nil {
		return err
	}
	b := make([]byte, 1000)
	if n, err := unix.Getxattr(file, "user.name", b); err != nil || string(b[:n]) != value {
		return fmt.Errorf("%q, %w", b[:max(n, 0)], err)
	}
	if n, err := unix.Listxattr(file, b); err != nil || !strings.Contains(string(b[:n]), "user.name\x00") {
		return fmt.Errorf("list: %q, %w", b[:max(n, 0)], err)
	}
	return unix.Removexattr(file, "user.name")
}

func hardLinks(dir string) error {
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := errors.Join(os.WriteFile(one, []byte("same"), 0o644), os.Link(one, two)); err != nil {
		return err
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(one, &a), unix.Stat(two, &b)); err != nil {
		return err
	}
	if a.Ino != b.Ino || b.Nlink != 2 {
		return fmt.Errorf("inodes %d and %d, %d links", a.Ino, b.Ino, b.Nlink)
	}
	return os.Remove(one)
}

// names of all bytes but the two that no name has.
func names(dir string) error {
	var all []byte
	for b := 1; b < 256; b++ {
		if b != '/' {
			all = append(all, byte(b))
		}
	}
	file := filepath.Join(dir, string(all))
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != string(all) {
		return fmt.Errorf("%q, %w", list, err)
	}
	return nil
}

// unnamed removes a file that is open, and goes on with it.
func unnamed(dir string) error {
	file := filepath.Join(dir, "file")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(file); err != nil {
		return err
	}
	if _, err := f.WriteString("written"); err != nil {
		return err
	}
	b := make([]byte, 7)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "written" {
		return fmt.Errorf("%q, %w", b, err)
	}
	_, err = os.Stat(file)
	if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("its name: %w", err)
	}
	return nil
}

// leadOut follows a link that leaves the folder: it is the guest's to follow.
func leadOut(dir string) error {
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/version", link); err != nil {
		return err
	}
	a, err := os.ReadFile(link)
	if err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/version")
	if err != nil || !bytes.Equal(a, b) {
		return fmt.Errorf("%q, want the guest's %q, %w", a, b, err)
	}
	return nil
}

// renames moves a folder to and fro while its file is opened by both paths and by a descriptor of the folder. What is found is
// always that file. A path may be missed, and in the lab the descriptor's may be, too: the file server of the nested host goes by paths.
func renames(dir string) error {
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "deeper/two")
	if err := errors.Join(os.MkdirAll(filepath.Join(one, "sub"), 0o755), os.Mkdir(filepath.Dir(two), 0o755)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(one, "sub/file"), []byte("same"), 0o644); err != nil {
		return err
	}
	folder, err := os.OpenRoot(one)
	if err != nil {
		return err
	}
	defer folder.Close()
	moved := make(chan error, 1)
	go func() {
		var errs []error
		for range 10 {
			errs = append(errs, os.Rename(one, two), os.Rename(two, one))
		}
		moved <- errors.Join(errs...)
	}()
	for moving := true; moving; {
		select {
		case err := <-moved:
			if err != nil {
				return err
			}
			moving = false
		default:
		}
		for i, read := range []func() ([]byte, error){
			func() ([]byte, error) { return folder.ReadFile("sub/file") },
			func() ([]byte, error) { return os.ReadFile(filepath.Join(one, "sub/file")) },
			func() ([]byte, error) { return os.ReadFile(filepath.Join(two, "sub/file")) },
		} {
			mayMiss := moving || i == 2
			if b, err := read(); (err != nil || string(b) != "same") && !(mayMiss && errors.Is(err, unix.ENOENT)) {
				return fmt.Errorf("way %d, moving: %t: %q, %w", i, moving, b, err)
			}
		}
	}
	return nil
}
