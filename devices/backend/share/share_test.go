package share_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

// mount serves the folder to a client of the library's and returns its root. What is open is
// checked at the end: nothing may be left.
func mount(t testing.TB, cfg share.Config) p9.File {
	t.Helper()
	before := descriptors(t)
	s, err := share.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	session := s.NewSession()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- session.Serve(ours) }()
	client, err := p9.NewClient(quietConn{theirs}, p9.WithMessageSize(256<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		// The client clunks what is garbage, and is perhaps about to.
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Serve: %v", err)
		}
		session.Close()
		s.Close()
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors are left, there were %d", after, before)
		}
	})
	root, err := client.Attach("")
	if err != nil {
		t.Fatal(err)
	}
	keep(t, root)
	return root
}

// keep holds on to f until the end of the test: the client clunks what is garbage, even while
// a request about it is under way.
func keep(t testing.TB, f p9.File) { t.Cleanup(func() { runtime.KeepAlive(f) }) }

// quietConn does not fail when written to after its end: the client would put the request's
// state back into a pool and still use it.
type quietConn struct{ net.Conn }

func (c quietConn) Write(p []byte) (int, error) {
	_, _ = c.Conn.Write(p)
	return len(p), nil
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func walk(t testing.TB, from p9.File, path string) p9.File {
	t.Helper()
	var names []string
	if path != "" {
		names = strings.Split(path, "/")
	}
	_, f, err := from.Walk(names)
	if err != nil {
		t.Fatalf("walk %q: %v", path, err)
	}
	keep(t, f)
	return f
}

func open(t testing.TB, from p9.File, path string) p9.File {
	t.Helper()
	f := walk(t, from, path)
	if _, _, err := f.Open(p9.ReadOnly); err != nil {
		t.Fatalf("open %q: %v", path, err)
	}
	return f
}

func wantErrno(t testing.TB, what string, err error, want unix.Errno) {
	t.Helper()
	var got linux.Errno
	if !errors.As(err, &got) || unix.Errno(got) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKernelFileSystemsAreEmpty(t *testing.T) {
	root := mount(t, share.Config{Path: "/", ReadOnly: true})
	proc := open(t, root, "proc")
	if _, _, _, err := proc.GetAttr(p9.AttrMaskAll); err != nil {
		t.Error(err)
	}
	if all := list(t, proc, 8192); len(all) != 2 || all[0].Name != "." || all[1].Name != ".." {
		t.Errorf("/proc holds %v", all)
	}
	proc = walk(t, root, "proc")
	for _, name := range []string{"self", "1", "version"} {
		_, _, err := proc.Walk([]string{name})
		wantErrno(t, "proc/"+name, err, unix.ENOENT)
	}
	if _, err := share.New(share.Config{Path: "/proc/self"}); err == nil {
		t.Error("a share of procfs was made")
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		write(t, fmt.Sprintf("%s/d%d/f", dir, i), "content")
	}
	t.Run("nodes", func(t *testing.T) {
		root := mount(t, share.Config{Path: dir, ReadOnly: true, Limits: share.Limits{Nodes: 20}})
		var err error
		var files []p9.File
		for i := 0; err == nil && i < 40; i++ {
			var f p9.File
			if _, f, err = root.Walk([]string{fmt.Sprintf("d%d", i)}); err == nil {
				files = append(files, f)
			}
		}
		wantErrno(t, "walk", err, unix.EMFILE)
		must(t, files[0].Close())
		walk(t, root, "d0")
		runtime.KeepAlive(files)
	})
	t.Run("open", func(t *testing.T) {
		root := mount(t, share.Config{Path: dir, ReadOnly: true, Limits: share.Limits{Open: 3}})
		f := open(t, root, "d0/f")
		open(t, root, "d0/f")
		open(t, root, "d1")
		_, _, err := walk(t, root, "d2/f").Open(p9.ReadOnly)
		wantErrno(t, "open", err, unix.EMFILE)
		must(t, f.Close())
		open(t, root, "d2/f")
	})
	t.Run("handles", func(t *testing.T) {
		root := mount(t, share.Config{Path: dir, ReadOnly: true, Limits: share.Limits{Handles: 2}})
		before := descriptors(t)
		var dirs []p9.File
		for round := range 3 {
			for i := range 40 {
				if round == 0 {
					dirs = append(dirs, walk(t, root, fmt.Sprintf("d%d", i)))
				}
				f := open(t, dirs[i], "f")
				buf := make([]byte, 10)
				if n, _ := f.ReadAt(buf, 0); string(buf[:n]) != "content" {
					t.Fatalf("read %q", buf[:n])
				}
				f.Close()
			}
		}
		if n := descriptors(t) - before; n > 3 {
			t.Errorf("%d descriptors for 2 handles", n)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for _, cfg := range []share.Config{
		{Path: "/does/not/exist"},
		{Path: file},
		{Path: "/", Limits: share.Limits{Open: -1}},
		{Path: "/proc"},
	} {
		before := descriptors(t)
		if s, err := share.New(cfg); err == nil {
			s.Close()
			t.Errorf("%+v: accepted", cfg)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%+v: %d descriptors are left, there were %d", cfg, after, before)
		}
	}
}
