package hostpci

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// tree reads files below a root. Paths are those of the host, such as /sys/bus/pci.
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

// list returns the names in a folder, unsorted.
func (t *tree) list(dir string) ([]string, error) {
	t.reads.Add(1)
	f, err := os.Open(t.path(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// attributeSize bounds what is read of an attribute: sysfs gives a page.
const attributeSize = 4096

// bytes returns up to limit bytes of a file, read by one call as sysfs wants it.
func (t *tree) bytes(p string, limit int) ([]byte, error) {
	t.reads.Add(1)
	f, err := os.Open(t.path(p))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, limit)
	n, err := f.Read(buf)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
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
	return os.Readlink(t.path(p))
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
