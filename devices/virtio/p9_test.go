package virtio_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

const (
	p9Message  = 64 << 10 // bytes of messages in these tests
	p9Slots    = 6        // requests in flight; each takes up to 20 descriptors
	p9PieceLen = 8 << 10  // bytes in one descriptor, at most
)

// p9Conn carries 9P messages over a device's queue, for the library's client.
type p9Conn struct {
	drv *virtiotest.Driver

	mu      sync.Mutex
	pending []byte // the beginning of a request
	rest    []byte // of a response
	free    []p9Slot
	busy    map[uint16]p9Slot
	closed  bool
}

// p9Slot is guest memory for one request and its response.
type p9Slot struct {
	req, resp       []byte
	reqGPA, respGPA uint64
}

func newP9Conn(m *virtiotest.Machine, drv *virtiotest.Driver) *p9Conn {
	c := &p9Conn{drv: drv, busy: map[uint16]p9Slot{}}
	for range p9Slots {
		var s p9Slot
		s.reqGPA, s.req = m.Alloc(p9Message)
		s.respGPA, s.resp = m.Alloc(p9Message)
		c.free = append(c.free, s)
	}
	return c
}

// p9Pieces splits n bytes at gpa as Linux's zero-copy requests do: the header, then pages.
func p9Pieces(gpa uint64, n int, write bool) (bufs []virtqtest.Buf) {
	for piece := 11; n > 0; piece = p9PieceLen {
		piece = min(piece, n)
		bufs = append(bufs, virtqtest.Buf{Addr: gpa, Len: uint32(piece), Write: write})
		gpa += uint64(piece)
		n -= piece
	}
	return bufs
}

// Write sends requests. It does not fail once the connection is closed: the client would put
// the request's state back into a pool and still use it.
func (c *p9Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, p...)
	for len(c.pending) >= 4 {
		n := int(binary.LittleEndian.Uint32(c.pending))
		if len(c.pending) < n {
			break
		}
		for len(c.free) == 0 && !c.closed {
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		if c.closed {
			return len(p), nil
		}
		s := c.free[len(c.free)-1]
		c.free = c.free[:len(c.free)-1]
		copy(s.req, c.pending[:n])
		c.pending = c.pending[n:]
		head, ok := c.drv.Rings[0].Add(append(p9Pieces(s.reqGPA, n, false), p9Pieces(s.respGPA, p9Message, true)...)...)
		if !ok {
			return 0, io.ErrShortBuffer
		}
		c.busy[head] = s
		c.drv.Kick(0)
	}
	return len(p), nil
}

func (c *p9Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.rest) == 0 {
		if c.closed {
			return 0, io.EOF
		}
		head, n, ok := c.drv.Rings[0].Used()
		if !ok {
			c.mu.Unlock()
			time.Sleep(20 * time.Microsecond)
			c.mu.Lock()
			continue
		}
		s := c.busy[head]
		delete(c.busy, head)
		c.rest = bytes.Clone(s.resp[:n])
		c.free = append(c.free, s)
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *p9Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// p9Device plugs a share of dir into a machine.
func p9Device(t testing.TB, dir string) (*virtiotest.Machine, *virtiotest.Driver) {
	t.Helper()
	s, err := share.New(share.Config{Path: dir, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	dev, err := virtio.NewP9("root", s)
	if err != nil {
		t.Fatal(err)
	}
	m := virtiotest.New(t)
	_, drv := m.Plug(dev)
	return m, drv
}

// p9Mount starts the device and attaches the client.
func p9Mount(t testing.TB, m *virtiotest.Machine, drv *virtiotest.Driver) (*p9.Client, p9.File) {
	t.Helper()
	drv.Start(drv.Features(), 2)
	client, err := p9.NewClient(newP9Conn(m, drv), p9.WithMessageSize(p9Message))
	if err != nil {
		t.Fatal(err)
	}
	root, err := client.Attach("")
	if err != nil {
		t.Fatal(err)
	}
	return client, root
}

func p9Open(root p9.File, names ...string) (p9.File, error) {
	_, f, err := root.Walk(names)
	if err != nil {
		return nil, err
	}
	_, _, err = f.Open(p9.ReadOnly)
	return f, err
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestP9Config(t *testing.T) {
	_, drv := p9Device(t, t.TempDir())
	if drv.Config(2, 2) != 0x1040+virtio.Type9P {
		t.Errorf("PCI device %#x", drv.Config(2, 2))
	}
	if drv.Features()&1 == 0 {
		t.Error("VIRTIO_9P_MOUNT_TAG is not offered")
	}
	tag := make([]byte, drv.Device(0, 2))
	for i := range tag {
		tag[i] = byte(drv.Device(2+uint64(i), 1))
	}
	if string(tag) != "root" {
		t.Errorf("tag %q", tag)
	}
	for _, bad := range []string{"", string(make([]byte, virtio.MaxP9Tag+1))} {
		if _, err := virtio.NewP9(bad, nil); err == nil {
			t.Errorf("a tag of %d bytes was accepted", len(bad))
		}
	}
}

func TestP9Mount(t *testing.T) {
	dir := t.TempDir()
	const files = 12
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 150000+i) }
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), content(i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, drv := p9Device(t, dir)
	client, root := p9Mount(t, m, drv)
	defer client.Close()
	var readers sync.WaitGroup
	for i := range files {
		readers.Go(func() {
			for range 5 {
				f, err := p9Open(root, fmt.Sprintf("f%d", i))
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 200000)
				if n, _ := f.ReadAt(buf, 0); !bytes.Equal(buf[:n], content(i)) {
					t.Errorf("file %d: %d bytes, or others than were written", i, n)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Wait()
	top, err := p9Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := top.Readdir(0, 32<<10); err != nil || len(entries) != files+2 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	runtime.KeepAlive(top) // the client clunks what is garbage, even while it is in use
	runtime.KeepAlive(root)
	if drv.Common(virtiotest.Status, 1)&virtiotest.NeedsReset != 0 {
		t.Error("the device asks for a reset")
	}
}

// p9Wait returns the next used element.
func p9Wait(t testing.TB, ring *virtqtest.Ring) (uint16, uint32) {
	t.Helper()
	for {
		if head, n, ok := ring.Used(); ok {
			return head, n
		}
		time.Sleep(20 * time.Microsecond)
	}
}

func TestP9BadChains(t *testing.T) {
	m, drv := p9Device(t, t.TempDir())
	drv.Start(drv.Features(), 2)
	ring := drv.Rings[0]
	gpa, b := m.Alloc(4096)
	version := []byte{21, 0, 0, 0, 100, 255, 255, 0, 0x20, 0, 0, 8, 0, '9', 'P', '2', '0', '0', '0', '.', 'L'}
	copy(b, version)
	out := virtqtest.Buf{Addr: gpa, Len: uint32(len(version))}
	in := func(n uint32) virtqtest.Buf { return virtqtest.Buf{Addr: gpa + 2048, Len: n, Write: true} }
	for _, test := range []struct {
		name string
		bufs []virtqtest.Buf
		want uint32
		typ  byte
	}{
		{"no room", []virtqtest.Buf{out}, 0, 0},
		{"little room", []virtqtest.Buf{out, in(10)}, 0, 0},
		{"room for an error", []virtqtest.Buf{out, in(11)}, 11, 7},
		{"no request", []virtqtest.Buf{in(100)}, 11, 7},
		{"half a request", []virtqtest.Buf{{Addr: gpa, Len: 9}, in(100)}, 11, 7},
		{"whole", []virtqtest.Buf{out, in(100)}, 21, 101},
		{"in pieces", []virtqtest.Buf{{Addr: gpa, Len: 3}, {Addr: gpa + 3, Len: 18}, in(5), {Addr: gpa + 2053, Len: 16, Write: true}}, 21, 101},
	} {
		clear(b[2048:])
		head, ok := ring.Add(test.bufs...)
		if !ok {
			t.Fatal("ring is full")
		}
		drv.Kick(0)
		got, n := p9Wait(t, ring)
		if got != head || n != test.want || b[2048+4] != test.typ {
			t.Errorf("%s: %d bytes % x, want %d of type %d", test.name, n, b[2048:2048+n], test.want, test.typ)
		}
	}
}

func TestP9ResetEndsSession(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), make([]byte, 100000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, drv := p9Device(t, dir)
	before := openFiles(t)
	for round := range 3 {
		client, root := p9Mount(t, m, drv)
		var kept []p9.File
		for i := range 50 {
			f, err := p9Open(root, fmt.Sprintf("f%d", i))
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, f)
		}
		if openFiles(t) < before+50 {
			t.Error("the files are not open")
		}
		// Requests under way while the reset comes.
		var readers sync.WaitGroup
		for i := range 4 {
			readers.Go(func() {
				buf := make([]byte, 50000)
				for {
					if _, err := kept[i].ReadAt(buf, 0); err != nil {
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		drv.Reset()
		client.Close()
		readers.Wait()
		runtime.KeepAlive(kept)
		runtime.KeepAlive(root)
		if after := openFiles(t); after > before {
			t.Errorf("round %d: %d descriptors are open after the reset, %d before", round, after, before)
		}
	}
}

// p9Getattr is a Tgetattr of the root.
var p9Getattr = []byte{19, 0, 0, 0, 24, 7, 0, 1, 0, 0, 0, 255, 7, 0, 0, 0, 0, 0, 0}

func BenchmarkP9Getattr(b *testing.B) {
	m, drv := p9Device(b, b.TempDir())
	client, root := p9Mount(b, m, drv)
	defer client.Close()
	runtime.KeepAlive(root)
	ring := drv.Rings[0]
	gpa, buf := m.Alloc(4096)
	copy(buf, p9Getattr)
	b.ReportAllocs()
	for b.Loop() {
		ring.Add(virtqtest.Buf{Addr: gpa, Len: 19}, virtqtest.Buf{Addr: gpa + 2048, Len: 200, Write: true})
		drv.Kick(0)
		for _, _, ok := ring.Used(); !ok; _, _, ok = ring.Used() {
			runtime.Gosched()
		}
		if buf[2048+4] != 25 {
			b.Fatalf("response of type %d", buf[2048+4])
		}
	}
}
