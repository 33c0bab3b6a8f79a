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

func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "hello")
	must(t, os.Link(dir+"/f", dir+"/g"))
	must(t, os.Chmod(dir+"/f", 0o640))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999999999}}, 0))
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := walk(t, root, "f")
	for _, state := range []string{"closed", "open"} {
		qid, _, attr, err := f.GetAttr(p9.AttrMaskAll)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/f", &st))
		want := p9.Attr{
			Mode: p9.FileMode(st.Mode), UID: p9.UID(st.Uid), GID: p9.GID(st.Gid), NLink: 2, Size: 5,
			BlockSize: uint64(st.Blksize), Blocks: uint64(st.Blocks),
			ATimeSeconds: 1, ATimeNanoSeconds: 2, MTimeSeconds: 3, MTimeNanoSeconds: 999999999,
			CTimeSeconds: uint64(st.Ctim.Sec), CTimeNanoSeconds: uint64(st.Ctim.Nsec),
		}
		if attr != want {
			t.Errorf("%s: %v\nwant %v", state, attr, want)
		}
		if qid.Path != st.Ino {
			t.Errorf("%s: qid %v, inode %d", state, qid, st.Ino)
		}
		if state == "closed" {
			_, _, err = f.Open(p9.ReadOnly)
			must(t, err)
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999999999}}, 0))
		}
	}
}

func TestQIDVersionFollowsChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "hello")
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := walk(t, root, "f")
	first, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	again, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	write(t, dir+"/f", "HELLO!")
	changed, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	if first != again || first.Version == changed.Version || first.Path != changed.Path || first.Version == 0 {
		t.Errorf("QIDs %v, %v, after a change %v", first, again, changed)
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

// list reads the directory with requests of count bytes.
func list(t testing.TB, dir p9.File, count uint32) p9.Dirents {
	t.Helper()
	var all p9.Dirents
	offset := uint64(0)
	for {
		entries, err := dir.Readdir(offset, count)
		must(t, err)
		if len(entries) == 0 {
			return all
		}
		all = append(all, entries...)
		offset = entries[len(entries)-1].Offset
	}
}

func TestReaddir(t *testing.T) {
	const files = 10000
	dir := t.TempDir()
	for i := range files {
		fd, err := unix.Open(fmt.Sprintf("%s/file-%d-%s", dir, i, strings.Repeat("x", i%50)), unix.O_CREAT|unix.O_WRONLY, 0o600)
		must(t, err)
		unix.Close(fd)
	}
	must(t, os.Mkdir(dir+"/sub", 0o755))
	must(t, os.Symlink("x", dir+"/link"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	for _, count := range []uint32{1000, 200 << 10} {
		all := list(t, open(t, root, ""), count)
		seen := make(map[string]p9.Dirent)
		for _, e := range all {
			seen[e.Name] = e
		}
		if len(all) != files+5 || len(seen) != files+5 {
			t.Fatalf("requests of %d bytes: %d entries, %d names, want %d", count, len(all), len(seen), files+5)
		}
		for name, typ := range map[string]p9.QIDType{
			".": unix.DT_DIR, "..": unix.DT_DIR, "sub": unix.DT_DIR, "link": unix.DT_LNK, "fifo": unix.DT_FIFO, "file-0-": unix.DT_REG,
		} {
			if seen[name].Type != typ {
				t.Errorf("%s: type %d, want %d", name, seen[name].Type, typ)
			}
		}
		if seen[".."].QID != seen["."].QID {
			t.Errorf("the parent of the folder shows: %v, want %v", seen[".."], seen["."])
		}
		qid, _, err := root.Walk([]string{"sub"})
		must(t, err)
		if qid[0].Path != seen["sub"].QID.Path {
			t.Errorf("sub: walk %v, readdir %v", qid[0], seen["sub"].QID)
		}
	}
}

func TestReaddirSeeks(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		write(t, fmt.Sprintf("%s/%d", dir, i), "")
	}
	root := open(t, mount(t, share.Config{Path: dir, ReadOnly: true}), "")
	all := list(t, root, 64<<10)
	for _, i := range []int{150, 10, 250, 0} {
		rest, err := root.Readdir(all[i].Offset, 64<<10)
		must(t, err)
		if len(rest) != len(all)-i-1 || rest[0].Name != all[i+1].Name {
			t.Errorf("behind entry %d: %d entries, want %d", i, len(rest), len(all)-i-1)
		}
	}
	again := list(t, root, 512)
	if len(again) != len(all) {
		t.Errorf("from the start again: %d entries, want %d", len(again), len(all))
	}
	_, err := root.Readdir(0, 10)
	wantErrno(t, "no room for an entry", err, unix.EINVAL)
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

func TestOtherFileSystems(t *testing.T) {
	root := mount(t, share.Config{Path: "/", ReadOnly: true})
	first, _, err := root.Walk([]string{"dev"})
	must(t, err)
	dev := walk(t, root, "dev")
	again, _, _, err := dev.GetAttr(p9.AttrMaskAll)
	must(t, err)
	if first[0] != again {
		t.Errorf("/dev is %v and %v", first[0], again)
	}
	null := walk(t, dev, "null")
	_, _, err = null.Open(p9.ReadOnly)
	wantErrno(t, "open /dev/null", err, unix.ENXIO)
	top, _, _, err := root.GetAttr(p9.AttrMaskAll)
	must(t, err)
	var st, devSt unix.Stat_t
	must(t, unix.Stat("/", &st))
	must(t, unix.Stat("/dev", &devSt))
	if top.Path != st.Ino {
		t.Errorf("the root's QID %v is not its inode number %d", top, st.Ino)
	}
	if devSt.Dev != st.Dev && again.Path == devSt.Ino {
		t.Errorf("/dev's QID %v is only its inode number", again)
	}
}

func TestStatFS(t *testing.T) {
	dir := t.TempDir()
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	got, err := root.StatFS()
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if got.Blocks != st.Blocks || got.BlockSize != uint32(st.Bsize) || got.Files != st.Files || got.NameLength != 255 || got.Type != unix.V9FS_MAGIC {
		t.Errorf("%+v, host %+v", got, st)
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
