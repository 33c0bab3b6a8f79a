package share_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 100<<10/16)
	write(t, dir+"/sub/deep/file", big)
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := open(t, root, "sub/deep/file")
	buf := make([]byte, len(big)+10)
	n, err := f.ReadAt(buf, 0)
	if n != len(big) || string(buf[:n]) != big {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if n, _ := f.ReadAt(buf[:5], 3); string(buf[:n]) != "34567" {
		t.Errorf("at 3: %q", buf[:n])
	}
}

func TestSpecialFilesCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	l, err := net.Listen("unix", dir+"/socket")
	must(t, err)
	defer l.Close()
	names := []string{"fifo", "socket"}
	if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
		names = append(names, "null")
	}
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	for _, name := range names {
		f := walk(t, root, name)
		_, _, attr, err := f.GetAttr(p9.AttrMaskAll)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if uint32(attr.Mode) != st.Mode || uint64(attr.RDev) != st.Rdev {
			t.Errorf("%s: mode %o device %#x, want %o %#x", name, attr.Mode, attr.RDev, st.Mode, st.Rdev)
		}
		_, _, err = f.Open(p9.ReadOnly)
		wantErrno(t, "open "+name, err, unix.ENXIO)
	}
}

func TestLargeOffsets(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	const at = 4<<30 + 123
	_, err = f.WriteAt([]byte("tail"), at)
	must(t, err)
	f.Close()
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	g := open(t, root, "sparse")
	buf := make([]byte, 8)
	if n, _ := g.ReadAt(buf, at); string(buf[:n]) != "tail" {
		t.Errorf("at %d: %q", int64(at), buf[:n])
	}
	if _, err := g.ReadAt(buf, -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("offset 2^64-1: %v", err)
	}
}

func TestUnlinkedOpenFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "still here")
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := open(t, root, "f")
	must(t, os.Remove(dir+"/f"))
	write(t, dir+"/f", "another")
	buf := make([]byte, 64)
	if n, _ := f.ReadAt(buf, 0); string(buf[:n]) != "still here" {
		t.Errorf("read %q", buf[:n])
	}
	if _, _, attr, err := f.GetAttr(p9.AttrMaskAll); err != nil || attr.Size != 10 || attr.NLink != 0 {
		t.Errorf("%v, %v", attr, err)
	}
}

func TestPermissionDenied(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t, "TestPermissionDenied")
		return
	}
	dir := t.TempDir()
	write(t, dir+"/secret", "x")
	write(t, dir+"/closed/f", "x")
	must(t, os.Chmod(dir+"/secret", 0))
	must(t, os.Chmod(dir+"/closed", 0))
	defer os.Chmod(dir+"/closed", 0o755)
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	_, _, err := walk(t, root, "secret").Open(p9.ReadOnly)
	wantErrno(t, "open secret", err, unix.EACCES)
	_, _, err = walk(t, root, "closed").Open(p9.ReadOnly)
	wantErrno(t, "open closed", err, unix.EACCES)
	_, _, err = walk(t, root, "closed").Walk([]string{"f"})
	wantErrno(t, "walk closed/f", err, unix.EACCES)
}
