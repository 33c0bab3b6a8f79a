package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// Request types, status values and features (virtio 1.3, 5.2).
const (
	blkIn, blkOut, blkFlush, blkGetID, blkDiscard, blkZeroes = 0, 1, 4, 8, 11, 13
	blkOK, blkIOErr, blkUnsupp                               = 0, 1, 2

	blkF = modern | virtio.FeatureEventIdx | virtio.FeatureIndirect | 1<<1 | 1<<2 | 1<<6 | 1<<9 | 1<<10 | 1<<11 | 1<<13 | 1<<14
)

const memDiskSize = 1 << 20 // bytes

// memDisk is an image in memory.
type memDisk struct {
	mu       sync.Mutex
	data     []byte
	readOnly bool
	block    int
	fault    error         // of every transfer and flush; see setFault
	hold     chan struct{} // if not nil, transfers wait for it
	holding  atomic.Int32
	flushes  atomic.Int32
	unmaps   atomic.Int32
}

func newMemDisk() *memDisk { return &memDisk{data: make([]byte, memDiskSize), block: disk.SectorSize} }

func (m *memDisk) begin(off, n int64) error {
	if m.hold != nil {
		m.holding.Add(1)
		<-m.hold
		m.holding.Add(-1)
	}
	if off < 0 || n < 0 || off+n > int64(len(m.data)) {
		panic("the device reached beyond the disk")
	}
	return m.err()
}

func (m *memDisk) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault
}

func (m *memDisk) setFault(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
}

func (m *memDisk) Size() int64    { return int64(len(m.data)) }
func (m *memDisk) BlockSize() int { return m.block }
func (m *memDisk) ReadOnly() bool { return m.readOnly }
func (m *memDisk) Close() error   { return nil }

func (m *memDisk) each(bufs [][]byte, off int64, do func(buf, data []byte)) error {
	n := int64(0)
	for _, b := range bufs {
		n += int64(len(b))
	}
	if err := m.begin(off, n); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range bufs {
		do(b, m.data[off:off+int64(len(b))])
		off += int64(len(b))
	}
	return nil
}

func (m *memDisk) ReadAt(bufs [][]byte, off int64) error {
	return m.each(bufs, off, func(buf, data []byte) { copy(buf, data) })
}

func (m *memDisk) WriteAt(bufs [][]byte, off int64) error {
	if m.readOnly {
		panic("write to a read-only disk")
	}
	return m.each(bufs, off, func(buf, data []byte) { copy(data, buf) })
}

func (m *memDisk) Flush() error { m.flushes.Add(1); return m.err() }

func (m *memDisk) Discard(off, n int64) error { return m.WriteZeroes(off, n, true) }

func (m *memDisk) WriteZeroes(off, n int64, unmap bool) error {
	if unmap {
		m.unmaps.Add(1)
	}
	if err := m.begin(off, n); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[off : off+n])
	return nil
}

func (m *memDisk) Resize(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = append(m.data, make([]byte, max(size-int64(len(m.data)), 0))...)[:size]
	return m.fault
}

// blkGuest is a guest with a disk.
type blkGuest struct {
	*virtiotest.Driver
	t   testing.TB
	m   *virtiotest.Machine
	dev *virtio.Blk
	tr  *virtio.Transport
	img disk.Image

	headerAddr, statusAddr, dataAddr uint64
	header, status, data             []byte
}

func newBlkGuest(t testing.TB, img disk.Image, features uint64, queues int, notice func(string)) *blkGuest {
	t.Helper()
	dev, err := virtio.NewBlk(virtio.BlkOptions{Image: img, Serial: "serial-0123", Queues: queues, Notice: notice})
	if err != nil {
		t.Fatal(err)
	}
	g := &blkGuest{t: t, m: virtiotest.New(t), dev: dev, img: img}
	g.tr, g.Driver = g.m.Plug(dev)
	g.headerAddr, g.header = g.m.Alloc(16)
	g.statusAddr, g.status = g.m.Alloc(1)
	g.dataAddr, g.data = g.m.Alloc(256 << 10)
	g.Start(features, 3)
	return g
}

func (g *blkGuest) setHeader(typ uint32, sector uint64) virtqtest.Buf {
	binary.LittleEndian.PutUint32(g.header, typ)
	binary.LittleEndian.PutUint64(g.header[8:], sector)
	return virtqtest.Buf{Addr: g.headerAddr, Len: 16}
}

func (g *blkGuest) statusBuf() virtqtest.Buf {
	g.status[0] = 0xee
	return virtqtest.Buf{Addr: g.statusAddr, Len: 1, Write: true}
}

// order tells the race detector, which knows no doorbells, that the device comes after the test.
func (g *blkGuest) order() {
	if m, ok := g.img.(*memDisk); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
	}
}

// chain sends any buffers and returns the bytes written.
func (g *blkGuest) chain(bufs ...virtqtest.Buf) uint32 {
	g.t.Helper()
	r := g.Rings[0]
	before := g.m.IRQ.Count(g.Message(1))
	r.SetUsedEvent(r.LastUsed())
	r.Add(bufs...)
	g.order()
	g.Kick(0)
	g.m.IRQ.Wait(g.Message(1), before+1)
	_, n, ok := r.Used()
	if !ok {
		g.t.Fatal("interrupt without a used buffer")
	}
	return n
}

// request sends a request with n bytes of g.data and returns its status.
func (g *blkGuest) request(typ uint32, sector uint64, n int) byte {
	g.t.Helper()
	bufs := []virtqtest.Buf{g.setHeader(typ, sector)}
	if n > 0 {
		bufs = append(bufs, virtqtest.Buf{Addr: g.dataAddr, Len: uint32(n), Write: typ == blkIn || typ == blkGetID})
	}
	want := uint32(1)
	if typ == blkIn || typ == blkGetID {
		want += uint32(n)
	}
	got := g.chain(append(bufs, g.statusBuf())...)
	if g.status[0] != blkOK && want > 1 {
		want = 0 // nothing is written before the status, which is not at the start
	}
	if got > want || got != want && typ != blkGetID {
		g.t.Errorf("type %d: %d bytes written, want %d", typ, got, want)
	}
	return g.status[0]
}

// ranges puts ranges for discard and write-zeroes into g.data and returns their length.
func (g *blkGuest) ranges(list ...[3]uint64) int {
	for i, r := range list {
		binary.LittleEndian.PutUint64(g.data[16*i:], r[0])
		binary.LittleEndian.PutUint32(g.data[16*i+8:], uint32(r[1]))
		binary.LittleEndian.PutUint32(g.data[16*i+12:], uint32(r[2]))
	}
	return 16 * len(list)
}

func TestBlk(t *testing.T) {
	for name, features := range map[string]uint64{"flags": blkF &^ virtio.FeatureEventIdx, "event index": blkF} {
		t.Run(name, func(t *testing.T) {
			img := newMemDisk()
			g := newBlkGuest(t, img, features, 1, nil)
			for i := range g.data[:8192] {
				g.data[i] = byte(i * 7)
			}
			want := bytes.Clone(g.data[:8192])
			if got := g.request(blkOut, 3, 8192); got != blkOK {
				t.Fatalf("write: %d", got)
			}
			clear(g.data)
			if got := g.request(blkIn, 3, 8192); got != blkOK || !bytes.Equal(g.data[:8192], want) {
				t.Errorf("read: %d, or other data", got)
			}
			if got := g.request(blkFlush, 0, 0); got != blkOK || img.flushes.Load() != 1 {
				t.Errorf("flush: %d, %d times", got, img.flushes.Load())
			}
			if got := g.request(blkGetID, 0, 20); got != blkOK || string(g.data[:11]) != "serial-0123" || g.data[11] != 0 {
				t.Errorf("serial: %d, %q", got, g.data[:20])
			}
			n := g.ranges([3]uint64{3, 2, 0}, [3]uint64{7, 1, 0})
			if got := g.request(blkDiscard, 0, n); got != blkOK || img.unmaps.Load() != 2 {
				t.Errorf("discard: %d, %d ranges", got, img.unmaps.Load())
			}
			if got := g.request(blkZeroes, 0, g.ranges([3]uint64{5, 1, 0})); got != blkOK || img.unmaps.Load() != 2 {
				t.Errorf("write zeroes: %d", got)
			}
			if got := g.request(blkZeroes, 0, g.ranges([3]uint64{6, 1, 1})); got != blkOK || img.unmaps.Load() != 3 {
				t.Errorf("write zeroes that may unmap: %d", got)
			}
			if !bytes.Equal(img.data[3*512:8*512], make([]byte, 5*512)) || !bytes.Equal(img.data[8*512:8*512+100], want[5*512:5*512+100]) {
				t.Error("something else was zeroed")
			}
			if got := g.request(99, 0, 0); got != blkUnsupp {
				t.Errorf("unknown type: %d", got)
			}
		})
	}
}

// The device goes by bytes, not by descriptors (2.7.4.2).
func TestBlkAnyLayout(t *testing.T) {
	img := newMemDisk()
	g := newBlkGuest(t, img, blkF, 1, nil)
	copy(img.data, bytes.Repeat([]byte("abcd"), 1024))
	g.setHeader(blkIn, 0)
	in := func(off, n int) virtqtest.Buf {
		return virtqtest.Buf{Addr: g.dataAddr + uint64(off), Len: uint32(n), Write: true}
	}
	// A header in three pieces; the status behind data in one buffer.
	h := g.headerAddr
	n := g.chain(virtqtest.Buf{Addr: h, Len: 1}, virtqtest.Buf{Addr: h + 1, Len: 8}, virtqtest.Buf{Addr: h + 9, Len: 7}, in(0, 100), in(100, 413))
	if n != 513 || g.data[512] != blkOK || !bytes.Equal(g.data[:512], img.data[:512]) {
		t.Errorf("read in odd pieces: %d bytes, status %d", n, g.data[512])
	}
	// Data right behind the header.
	binary.LittleEndian.PutUint32(g.data, blkOut)
	binary.LittleEndian.PutUint64(g.data[8:], 1)
	copy(g.data[16:], bytes.Repeat([]byte{9}, 512))
	if n := g.chain(virtqtest.Buf{Addr: g.dataAddr, Len: 528}, g.statusBuf()); n != 1 || g.status[0] != blkOK || img.data[512] != 9 || img.data[1023] != 9 {
		t.Errorf("write in one buffer: %d bytes, status %d", n, g.status[0])
	}
}

func TestBlkConfig(t *testing.T) {
	img := newMemDisk()
	g := newBlkGuest(t, img, blkF|1<<12, 3, nil)
	for _, field := range []struct {
		name string
		off  uint64
		n    int
		want uint64
	}{
		{"capacity", 0, 4, memDiskSize / 512}, {"capacity above", 4, 4, 0}, {"seg_max", 12, 4, 254}, {"blk_size", 20, 4, 512},
		{"physical exponent", 24, 1, 3}, {"writeback", 32, 1, 1}, {"num_queues", 34, 2, 3}, {"discard segments", 40, 4, 32},
		{"zeroes segments", 52, 4, 1}, {"may unmap", 56, 1, 1}, {"behind the end", 60, 4, 0},
	} {
		if got := g.Device(field.off, field.n); got != field.want {
			t.Errorf("%s: %d, want %d", field.name, got, field.want)
		}
	}
	if got := g.Common(virtiotest.NumQueues, 2); got != 3 {
		t.Errorf("%d queues", got)
	}
	readOnly := newMemDisk()
	readOnly.readOnly, readOnly.block = true, 4096
	g = newBlkGuest(t, readOnly, modern|1<<5|1<<6, 1, nil)
	if f := g.Features(); f&(1<<5) == 0 || f&(1<<13|1<<14|1<<12) != 0 || g.Device(20, 4) != 4096 {
		t.Errorf("read-only disk of 4096: features %#x, blocks of %d", f, g.Device(20, 4))
	}
	if got := g.request(blkIn, 1, 4096); got != blkIOErr {
		t.Errorf("read of half blocks: %d", got)
	}
	if got := g.request(blkIn, 8, 4096); got != blkOK {
		t.Errorf("read: %d", got)
	}
}

// Without FLUSH, or with the cache off, what was answered is on the disk.
func TestBlkWritesThrough(t *testing.T) {
	img := newMemDisk()
	g := newBlkGuest(t, img, modern, 1, nil)
	g.request(blkOut, 0, 512)
	if got := img.flushes.Load(); got != 1 {
		t.Errorf("%d flushes for a driver that can't flush", got)
	}
	g.Start(blkF, 3)
	g.request(blkOut, 0, 512)
	if got := img.flushes.Load(); got != 1 {
		t.Errorf("%d flushes with the cache on", got)
	}
	wce := g.BAR + g.Caps[virtiotest.CapDevice].Off + 32
	g.m.Write(wce, 1, 0)
	g.request(blkOut, 0, 512)
	g.request(blkZeroes, 0, g.ranges([3]uint64{0, 1, 0}))
	if got := img.flushes.Load(); got != 3 {
		t.Errorf("%d flushes with the cache off", got)
	}
	g.Start(blkF, 3)
	if got := g.Device(32, 1); got != 1 {
		t.Error("a reset left the cache off")
	}
	g.Start(blkF&^(1<<9), 3)
	if got := g.Device(32, 1); got != 0 {
		t.Error("the cache is on for a driver that can't flush") // 5.2.5.2
	}
}

func TestBlkResize(t *testing.T) {
	g := newBlkGuest(t, newMemDisk(), blkF, 1, nil)
	generation := g.Common(virtiotest.Generation, 1)
	if err := g.dev.Resize(g.tr, 3<<20, false); err != nil {
		t.Fatal(err)
	}
	g.m.IRQ.Wait(g.Message(0), 1)
	if got := g.Device(0, 4); got != 3<<20/512 || g.Common(virtiotest.Generation, 1) == generation {
		t.Errorf("capacity %d sectors, generation still %d", got, generation)
	}
	if got := g.request(blkIn, 3<<11-1, 512); got != blkOK {
		t.Errorf("read of the new end: %d", got)
	}
	if err := g.dev.Resize(g.tr, 512, false); !errors.Is(err, virtio.ErrShrinks) || g.dev.Size() != 3<<20 {
		t.Errorf("smaller without a word: %d bytes, %v", g.dev.Size(), err)
	}
	if err := g.dev.Resize(g.tr, 512, true); err != nil {
		t.Fatal(err)
	}
	if got := g.request(blkIn, 1, 512); got != blkIOErr {
		t.Errorf("read behind the new end: %d", got)
	}
}

// A guest learns of the host's errors, and so does the user, but not of each.
func TestBlkErrors(t *testing.T) {
	img := newMemDisk()
	var mu sync.Mutex
	var notices []string
	g := newBlkGuest(t, img, blkF, 1, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		notices = append(notices, text)
	})
	img.setFault(unix.ENOSPC)
	for range 20 {
		if got := g.request(blkOut, 8, 512); got != blkIOErr {
			t.Fatalf("write: %d", got)
		}
	}
	for _, typ := range []uint32{blkIn, blkFlush, blkDiscard} {
		if got := g.request(typ, 0, map[uint32]int{blkIn: 512, blkDiscard: g.ranges([3]uint64{0, 1, 0})}[typ]); got != blkIOErr {
			t.Errorf("type %d: %d", typ, got)
		}
	}
	img.setFault(nil)
	if got := g.request(blkOut, 8, 512); got != blkOK {
		t.Errorf("write afterwards: %d", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(notices) != 1 || !strings.Contains(notices[0], "write at sector 8") || !strings.Contains(notices[0], "no space") {
		t.Errorf("notices %q", notices)
	}
}

func TestBlkRefused(t *testing.T) {
	for _, o := range []virtio.BlkOptions{
		{Image: newMemDisk(), Queues: 0}, {Image: newMemDisk(), Queues: 5}, {Image: newMemDisk(), Queues: 1, Serial: strings.Repeat("x", 21)},
	} {
		if _, err := virtio.NewBlk(o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}

// imageFile makes an image of zeroes and returns its path.
func imageFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, memDiskSize), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// BenchmarkBlk is the whole way of a request: doorbell, chain, system call, interrupt.
func BenchmarkBlk(b *testing.B) {
	img, err := disk.Open(disk.Options{Path: imageFile(b), Format: disk.Raw})
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	for _, bench := range []struct {
		name  string
		typ   uint32
		depth int
	}{{"read 4K", blkIn, 1}, {"write 4K", blkOut, 1}, {"read 4K, 32 at once", blkIn, 32}} {
		b.Run(bench.name, func(b *testing.B) {
			g := newBlkGuest(b, img, blkF, 1, nil)
			header, r := g.setHeader(bench.typ, 8), g.Rings[0]
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				batch := min(bench.depth, b.N-done)
				before := g.m.IRQ.Count(g.Message(1))
				r.SetUsedEvent(r.LastUsed() + uint16(batch) - 1)
				for range batch {
					r.Add(header, virtqtest.Buf{Addr: g.dataAddr, Len: 4096, Write: bench.typ == blkIn}, virtqtest.Buf{Addr: g.statusAddr, Len: 1, Write: true})
				}
				g.Kick(0)
				g.m.IRQ.Wait(g.Message(1), before+1)
				for range batch {
					if _, _, ok := r.Used(); !ok {
						b.Fatal(errors.New("a request is not done"))
					}
				}
				done += batch
			}
			if g.status[0] != blkOK {
				b.Fatalf("status %d", g.status[0])
			}
		})
	}
}
