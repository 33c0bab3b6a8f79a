package share_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

func TestNames(t *testing.T) {
	dir := t.TempDir()
	name := "caf\xe9 \xff\xfe\n'"
	write(t, filepath.Join(dir, name), "x")
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	open(t, root, name)
	for _, test := range []struct {
		name string
		want unix.Errno
	}{
		{"..", unix.EINVAL},
		{".", unix.EINVAL},
		{"", unix.EINVAL},
		{"a/b", unix.EINVAL},
		{"../" + filepath.Base(dir), unix.EINVAL},
		{"a\x00b", unix.EINVAL},
		{strings.Repeat("n", 256), unix.ENAMETOOLONG},
		{"missing", unix.ENOENT},
	} {
		_, _, err := root.Walk([]string{test.name})
		wantErrno(t, fmt.Sprintf("walk %.20q", test.name), err, test.want)
	}
	_, _, err := walk(t, root, name).Walk([]string{"x"})
	wantErrno(t, "walk through a regular file", err, unix.ENOTDIR)
	if qids, _, _ := root.Walk([]string{name, "x"}); len(qids) != 1 {
		t.Errorf("a walk that ends early: QIDs %v", qids)
	}
}

func TestSymlinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	for name, target := range map[string]string{
		"abs": outside, "up": "../../..", "loop": "loop", "proc": "/proc/self/root", "file": outside + "/secret",
	} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	for _, name := range []string{"abs", "up", "loop", "proc", "file"} {
		link := walk(t, root, name)
		want, _ := os.Readlink(filepath.Join(dir, name))
		if got, err := link.Readlink(); err != nil || got != want {
			t.Errorf("%s: target %q, %v", name, got, err)
		}
		_, _, err := link.Walk([]string{"secret"})
		wantErrno(t, name+"/secret", err, unix.ENOTDIR)
		_, _, err = link.Open(p9.ReadOnly)
		wantErrno(t, "open "+name, err, unix.ELOOP)
	}
}

func TestDirectoryReplacedBySymlink(t *testing.T) {
	for _, handles := range []int{1, 100} {
		dir, outside := t.TempDir(), t.TempDir()
		write(t, outside+"/b/secret", "secret")
		write(t, dir+"/a/b/inside", "x")
		write(t, dir+"/other/x", "x")
		root := mount(t, share.Config{Path: dir, ReadOnly: true, Limits: share.Limits{Handles: handles}})
		a := walk(t, root, "a")
		b := walk(t, root, "a/b")
		walk(t, b, "inside")
		walk(t, root, "other/x") // takes the only handle
		must(t, os.Rename(dir+"/a", dir+"/gone"))
		must(t, os.Symlink(outside, dir+"/a"))
		for what, f := range map[string]p9.File{"a": a, "b": b} {
			if _, _, err := f.Walk([]string{"secret"}); err == nil {
				t.Errorf("%d handles: %s/secret: left the share", handles, what)
			}
			if _, _, err := f.Walk([]string{"b"}); what == "a" && err == nil && handles == 1 {
				t.Errorf("%d handles: %s/b: found in the wrong directory", handles, what)
			}
		}
	}
}

func TestReplacedFileIsStale(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "old")
	write(t, dir+"/new", "new")
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := walk(t, root, "f")
	must(t, os.Rename(dir+"/new", dir+"/f"))
	_, _, _, err := f.GetAttr(p9.AttrMaskAll)
	wantErrno(t, "getattr", err, unix.ESTALE)
	_, _, err = f.Open(p9.ReadOnly)
	wantErrno(t, "open", err, unix.ESTALE)
	must(t, os.Remove(dir+"/f"))
	_, _, _, err = f.GetAttr(p9.AttrMaskAll)
	wantErrno(t, "getattr", err, unix.ENOENT)
}

// TestRenameAbove asks for a file whose descriptor is not kept, while the folder above it moves to and fro.
func TestRenameAbove(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/one/sub/file", "content")
	write(t, dir+"/other/file", "")
	root := mount(t, share.Config{Path: dir, Limits: share.Limits{Handles: 1}})
	file, other := walk(t, root, "one/sub/file"), walk(t, root, "other")
	moved := make(chan error, 1)
	go func() {
		var errs []error
		for range 500 {
			errs = append(errs, root.RenameAt("one", other, "two"), other.RenameAt("two", root, "one"))
		}
		moved <- errors.Join(errs...)
	}()
	for {
		if _, _, attr, err := file.GetAttr(p9.AttrMaskAll); err != nil || attr.Size != 7 {
			t.Fatalf("attributes: %d bytes, %v", attr.Size, err)
		}
		select {
		case err := <-moved:
			must(t, err)
			return
		default:
		}
	}
}
