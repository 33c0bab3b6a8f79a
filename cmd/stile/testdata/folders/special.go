package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// specialFiles makes what is no regular file, and uses it: the guest's kernel opens it, not the host.
func specialFiles(dir string) error {
	for name, try := range map[string]func(string) error{"fifo": fifo, "socket": socket, "zero": device} {
		if err := try(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	types := make(map[string]os.FileMode)
	for _, e := range list {
		types[e.Name()] = e.Type()
	}
	want := map[string]os.FileMode{"fifo": os.ModeNamedPipe, "socket": os.ModeSocket, "zero": os.ModeDevice | os.ModeCharDevice}
	for name, typ := range want {
		if types[name] != typ {
			return fmt.Errorf("%s: type %v in the directory", name, types[name])
		}
	}
	return nil
}

func fifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, []byte("through the pipe"), 0) }()
	b, err := os.ReadFile(path)
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	if string(b) != "through the pipe" {
		return fmt.Errorf("read %q", b)
	}
	return nil
}

func socket(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_, err = fmt.Fprintln(conn, "answer")
		served <- err
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err := errors.Join(err, <-served); err != nil {
		return err
	}
	if line != "answer\n" {
		return fmt.Errorf("read %q", line)
	}
	return nil
}

// device makes /dev/zero a second time, gives it away and moves it.
func device(path string) error {
	if err := unix.Mknod(path+".new", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
		return err
	}
	if err := errors.Join(unix.Chmod(path+".new", 0o640), os.Chown(path+".new", 12, 34), os.Rename(path+".new", path)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode != unix.S_IFCHR|0o640 || st.Rdev != unix.Mkdev(1, 5) || st.Uid != 12 || st.Gid != 34 {
		return fmt.Errorf("mode %o, device %#x of %d:%d", st.Mode, st.Rdev, st.Uid, st.Gid)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := []byte("content")
	if n, err := f.Write(b); n != len(b) || err != nil {
		return fmt.Errorf("wrote %d bytes: %w", n, err)
	}
	if n, err := f.Read(b); n != len(b) || err != nil || b[0] != 0 {
		return fmt.Errorf("read %q: %w", b[:max(n, 0)], err)
	}
	return nil
}
