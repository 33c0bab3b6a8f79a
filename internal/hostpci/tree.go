package hostpci

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// tree reads files below a root. Paths are those of the host, such as /sys/bus/pci.
//
// A scan asks for thousands of small files, so they are opened, read and closed by three
// system calls and not as os.File. Errors are *fs.PathError with the host's path.
type tree struct {
	root  string
	reads atomic.Int64 // files, links and folders asked for, which tests bound
}

func (t *tree) path(p string) string {
	if t.root == "/" {
		return p
	}
	return t.root + p
}

// open opens a file or folder for fn and closes it afterwards.
func (t *tree) open(p string, flags int, fn func(fd int) error) error {
	t.reads.Add(1)
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(t.path(p), flags|unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err == nil {
		err = fn(fd)
		unix.Close(fd)
	}
	if err != nil {
		return &fs.PathError{Op: "read", Path: p, Err: err}
	}
	return nil
}

func ignoringEINTR(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// list returns the names in a folder, unsorted.
func (t *tree) list(dir string) ([]string, error) {
	var names []string
	err := t.open(dir, unix.O_DIRECTORY, func(fd int) error {
		var buf [8192]byte
		for {
			n, err := ignoringEINTR(func() (int, error) { return unix.ReadDirent(fd, buf[:]) })
			if n <= 0 || err != nil {
				return err
			}
			_, _, names = unix.ParseDirent(buf[:n], -1, names)
		}
	})
	return names, err
}

// attributeSize bounds what is read of an attribute: sysfs gives a page.
const attributeSize = 4096

// bytes returns up to limit bytes of a file, read by one call as sysfs wants it.
func (t *tree) bytes(p string, limit int) ([]byte, error) {
	var content []byte
	err := t.open(p, 0, func(fd int) error {
		var buf [attributeSize]byte
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, buf[:min(limit, attributeSize)]) })
		content = append(content, buf[:max(n, 0)]...)
		return err
	})
	return content, err
}

// text returns an attribute without surrounding space.
func (t *tree) text(p string) (string, error) {
	b, err := t.bytes(p, attributeSize)
	return strings.TrimSpace(string(b)), err
}

// file returns all of a file.
func (t *tree) file(p string) ([]byte, error) {
	t.reads.Add(1)
	return os.ReadFile(t.path(p))
}

// link returns where a symbolic link points to, as it is written.
func (t *tree) link(p string) (string, error) {
	t.reads.Add(1)
	var buf [unix.PathMax]byte
	n, err := ignoringEINTR(func() (int, error) { return unix.Readlink(t.path(p), buf[:]) })
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: p, Err: err}
	}
	return string(buf[:n]), nil
}

// linkName returns the last component of where a link points to, "" if there is no link.
func (t *tree) linkName(p string) string {
	to, err := t.link(p)
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (t *tree) exists(p string) bool {
	t.reads.Add(1)
	_, err := os.Lstat(t.path(p))
	return err == nil
}
