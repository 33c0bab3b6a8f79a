package share

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVersion(t *testing.T) {
	g := newGuest(t, Config{Path: t.TempDir(), ReadOnly: true})
	for _, test := range []struct {
		version, want string
		msize, size   uint32
	}{
		{"9P2000.L", "9P2000.L", 8192, 8192},
		{"9P2000.L", "9P2000.L", 4 << 20, MaxMessage},
		{"9P2000.L.Google.7", "9P2000.L", 8192, 8192},
		{"9P2000", "unknown", 8192, 8192},
		{"9P2000.u", "unknown", 8192, 8192},
		{"", "unknown", 8192, 8192},
	} {
		d := g.ok(message(tversion, 0xffff, test.msize, test.version))
		if size, version := d.u32(), string(d.str()); size != test.size || version != test.want {
			t.Errorf("%q %d: %q %d", test.version, test.msize, version, size)
		}
	}
	g.fails("tiny messages", message(tversion, 0xffff, uint32(100), "9P2000.L"), unix.EMSGSIZE)
	g.fails("fid after Tversion", message(tgetattr, 1, uint32(0), uint64(0x7ff)), unix.EBADF)
}

func TestMalformed(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "x")
	g := newGuest(t, Config{Path: dir, ReadOnly: true})
	g.walkTo(0, 1, "f")
	for name, req := range map[string][]byte{
		"no header":        {7, 0, 0},
		"nothing":          {},
		"size below":       {6, 0, 0, 0, tclunk, 1, 0},
		"size above":       {80, 0, 0, 0, tclunk, 1, 0},
		"huge size":        {255, 255, 255, 255, tclunk, 1, 0},
		"no fields":        message(twalk, 1),
		"string beyond":    message(twalk, 1, uint32(0), uint32(9), uint16(1), uint16(50), []byte("short")),
		"17 names":         message(twalk, 1, uint32(0), uint32(9), uint16(17)),
		"attach with auth": message(tattach, 1, uint32(9), uint32(3), "", "", uint32(0)),
		"fid in use":       message(tattach, 1, uint32(1), uint32(noFID)),
		"readlink of file": message(treadlink, 1, uint32(1)),
	} {
		g.fails(name, req, unix.EINVAL)
	}
	g.fails("long request", append(message(twalk, 1), make([]byte, requestBytes)...)[:headerBytes], unix.EINVAL)
	g.fails("unknown type", message(200, 1), unix.EOPNOTSUPP)
	g.fails("auth", message(102, 1, uint32(1), "", "", uint32(0)), unix.EOPNOTSUPP)
	g.fails("attach to used fid", message(tattach, 1, uint32(1), uint32(noFID), "", "", uint32(0)), unix.EBADF)
	g.fails("attach to no fid", message(tattach, 1, uint32(noFID), uint32(noFID), "", "", uint32(0)), unix.EBADF)
	g.fails("attach elsewhere", message(tattach, 1, uint32(7), uint32(noFID), "", "../etc", uint32(0)), unix.ENOENT)
	g.fails("walk to used fid", message(twalk, 1, uint32(0), uint32(1), uint16(0)), unix.EBADF)
	g.fails("clunk of no fid", message(tclunk, 1, uint32(77)), unix.EBADF)
	g.fails("read of closed", message(tread, 1, uint32(1), uint64(0), uint32(1)), unix.EBADF)
	g.ok(message(tlopen, 1, uint32(1), uint32(0)))
	g.fails("open twice", message(tlopen, 1, uint32(1), uint32(0)), unix.EINVAL)
	g.fails("walk of open fid to itself", message(twalk, 1, uint32(1), uint32(1), uint16(0)), unix.EINVAL)
	g.fails("readdir of file", message(treaddir, 1, uint32(1), uint64(0), uint32(4096)), unix.ENOTDIR)
	g.fails("remove", message(tremove, 1, uint32(1)), unix.EOPNOTSUPP)
	g.fails("clunked by remove", message(tgetattr, 1, uint32(1), uint64(0)), unix.EBADF)
}

func TestResponseRoom(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", strings.Repeat("x", 5000))
	g := newGuest(t, Config{Path: dir, ReadOnly: true})
	g.walkTo(0, 1, "f")
	g.ok(message(tlopen, 1, uint32(1), uint32(0)))
	for _, test := range []struct {
		req        []byte
		room, want int
	}{
		{message(tgetattr, 1, uint32(1), uint64(0)), 0, 0},
		{message(tgetattr, 1, uint32(1), uint64(0)), 10, 0},
		{message(tgetattr, 1, uint32(1), uint64(0)), 11, 11},  // the error
		{message(tgetattr, 1, uint32(1), uint64(0)), 159, 11}, // the error
		{message(tgetattr, 1, uint32(1), uint64(0)), 160, 160},
		{message(tread, 1, uint32(1), uint64(0), uint32(4096)), 11, 11},
		{message(tread, 1, uint32(1), uint64(0), uint32(4096)), 12, 12},
		{message(tread, 1, uint32(1), uint64(0), uint32(4096)), 4107, 4107},
		{message(tread, 1, uint32(1), uint64(0), uint32(1<<32-1)), 6000, 5011},
		{message(tread, 1, uint32(1), uint64(5000), uint32(4096)), 6000, 11},
	} {
		c := Call{In: [][]byte{test.req}, Out: [][]byte{g.resp[:test.room]}}
		g.Begin(&c)
		n := g.Handle(&c)
		g.Finish(&c)
		if n != test.want {
			t.Errorf("message %d, room for %d bytes: %d bytes, want %d", test.req[4], test.room, n, test.want)
		}
	}
}

// Linux's zero-copy transfers: the header in one buffer, the data in pages, which may begin
// anywhere.
func TestScatteredBuffers(t *testing.T) {
	dir := t.TempDir()
	want := make([]byte, 20000)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	put(t, dir+"/f", string(want))
	g := newGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "f")
	g.ok(message(tlopen, 1, uint32(1), uint32(unix.O_RDWR)))
	for _, pieces := range [][]int{{11, 4096, 4096, 4096}, {5, 6, 100, 0, 9000}, {3, 3, 3, 3, 3, 30000}, {15000, 3000}} {
		c := Call{In: [][]byte{message(tread, 1, uint32(1), uint64(0), uint32(16000))}}
		total := 0
		for _, n := range pieces {
			c.Out = append(c.Out, make([]byte, n))
			total += n
		}
		g.Begin(&c)
		n := g.Handle(&c)
		g.Finish(&c)
		data := min(16000, total-dataBytes)
		got := bytes.Join(c.Out, nil)
		if n != dataBytes+data || !bytes.Equal(got[dataBytes:n], want[:data]) {
			t.Errorf("read into pieces %v: %d bytes", pieces, n)
		}

		req := message(twrite, 1, uint32(1), uint64(100), uint32(data), want[1000:1000+data])
		c = Call{Out: [][]byte{make([]byte, 4), make([]byte, 7)}}
		for _, n := range append(pieces, len(req)) {
			n = min(n, len(req))
			c.In = append(c.In, req[:n])
			req = req[n:]
		}
		g.Begin(&c)
		n = g.Handle(&c)
		g.Finish(&c)
		onDisk, _ := os.ReadFile(dir + "/f")
		if n != 11 || binary.LittleEndian.Uint32(c.Out[1][3:]) != uint32(data) || !bytes.Equal(onDisk[100:100+data], want[1000:1000+data]) {
			t.Errorf("write from pieces %v: %d bytes, % x", pieces, n, c.Out)
		}
		put(t, dir+"/f", string(want))
	}
}

func TestFlushWaits(t *testing.T) {
	g := newGuest(t, Config{Path: t.TempDir(), ReadOnly: true})
	old := Call{In: [][]byte{message(tgetattr, 5, uint32(0), uint64(0))}, Out: [][]byte{make([]byte, 200)}}
	g.Begin(&old)
	flushed := make(chan int, 1)
	flush := Call{In: [][]byte{message(tflush, 6, uint16(5))}, Out: [][]byte{make([]byte, 20)}}
	g.Begin(&flush)
	go func() { flushed <- g.Handle(&flush) }()
	for waiting := false; !waiting; {
		g.mu.Lock()
		waiting = g.flushers == 1
		g.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	// Flushes that could wait for each other or for themselves.
	g.ok(message(tflush, 7, uint16(7)))
	g.ok(message(tflush, 7, uint16(6)))
	g.ok(message(tflush, 7, uint16(99)))
	select {
	case <-flushed:
		t.Error("the flush was answered before the call that it is about")
	default:
	}
	if n := g.Handle(&old); n != 160 {
		t.Errorf("getattr: %d bytes", n)
	}
	g.Finish(&old)
	if n := <-flushed; n != headerBytes {
		t.Errorf("flush: %d bytes", n)
	}
	g.Finish(&flush)
}

func TestFidsUnderRace(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Config{Path: dir, Limits: Limits{Handles: 1}})
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			x := &guest{t: t, Session: g.Session, resp: make([]byte, 8192)}
			for i := range 300 {
				id := uint32(1 + (i+w)%3) // all use the same few fids: most requests fail somehow
				for _, req := range [][]byte{
					message(twalk, uint16(w), uint32(0), id, uint16(1), "f"),
					message(tlopen, uint16(w), id, uint32(0)),
					message(tread, uint16(w), id, uint64(0), uint32(100)),
					message(tgetattr, uint16(w), id, uint64(0)),
					message(twalk, uint16(w), uint32(0), id, uint16(2), "a", "b"),
					message(trenameat, uint16(w), uint32(0), "a", uint32(0), "c"),
					message(trenameat, uint16(w), uint32(0), "c", uint32(0), "a"),
					message(tstatfs, uint16(w), id),
					message(tclunk, uint16(w), id),
				} {
					x.exchange(req)
				}
			}
		})
	}
	workers.Wait()
}

func TestFallbackResolver(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, outside+"/c", "secret")
	if err := os.Symlink(outside, dir+"/a/link"); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, r := range []resolver{{openat2: false}, s.resolver} {
		for path, want := range map[string]error{
			"a": nil, "a/b/c": nil, "a/link": nil, "a/link/c": unix.ENOTDIR, "a/none/c": unix.ENOENT,
		} {
			fd, err := r.open(s.root.Int(), append([]byte(path), 0))
			if err == nil {
				unix.Close(fd)
			}
			if err != want && !(err == unix.ELOOP && want == unix.ENOTDIR) {
				t.Errorf("%+v %s: %v, want %v", r, path, err, want)
			}
		}
	}
	// The whole session with the fallback.
	g := newGuest(t, Config{Path: dir, Limits: Limits{Handles: 1}})
	g.share.resolver = resolver{}
	g.walkTo(0, 1, "a", "b", "c")
	g.ok(message(tlopen, 1, uint32(1), uint32(0)))
}

func TestServeRefusesGarbage(t *testing.T) {
	for name, in := range map[string][]byte{
		"size 0":    {0, 0, 0, 0, 1, 2, 3},
		"size 2 GB": {0, 0, 0, 0x80, 1, 2, 3},
		"cut short": message(tclunk, 1, uint32(4))[:9],
		"cut size":  {9, 0},
	} {
		s, err := New(Config{Path: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		session := s.NewSession()
		ours, theirs := net.Pipe()
		go func() {
			theirs.Write(in)
			theirs.Close()
		}()
		if err := session.Serve(ours); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := theirs.Read(make([]byte, 1)); err != io.EOF && err != io.ErrClosedPipe {
			t.Errorf("%s: the connection is open", name)
		}
		session.Close()
		s.Close()
	}
}

// The host exchanges a directory and a symbolic link that leaves the folder, all the time.
func TestExchangeDuringWalk(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, d := range []string{dir + "/a/b", outside + "/b"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir+"/a/b/f", "inside")
	put(t, outside+"/b/f", "secret")
	if err := os.Symlink(outside, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var host sync.WaitGroup
	host.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/link", unix.RENAME_EXCHANGE)
		}
	})
	for _, r := range []resolver{{openat2: true}, {}} {
		g := newGuest(t, Config{Path: dir, ReadOnly: true, Limits: Limits{Handles: 1}})
		g.share.resolver.openat2 = g.share.resolver.openat2 && r.openat2
		found := 0
		for range 2000 {
			g.exchange(message(twalk, 1, uint32(0), uint32(1), uint16(3), "a", "b", "f"))
			g.exchange(message(tlopen, 1, uint32(1), uint32(0)))
			resp := g.exchange(message(tread, 1, uint32(1), uint64(0), uint32(100)))
			if bytes.Contains(resp, []byte("secret")) {
				t.Fatal("left the folder")
			}
			if bytes.Contains(resp, []byte("inside")) {
				found++
			}
			g.exchange(message(tclunk, 1, uint32(1)))
		}
		if found == 0 {
			t.Logf("openat2 %v: the file was never reached", r.openat2)
		}
	}
	close(stop)
	host.Wait()
}
