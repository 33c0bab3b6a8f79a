package virtio_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// discarded records what a balloon gives back.
type discarded struct {
	mu    sync.Mutex
	pages []string // ranges of pages
	bytes uint64
}

func (d *discarded) DiscardPages(gpa, n uint64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pages = append(d.pages, fmt.Sprintf("%d+%d", gpa/4096, n/4096))
	return n
}

func (d *discarded) DiscardBytes(b []byte) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes += uint64(len(b))
	return uint64(len(b))
}

func (d *discarded) total() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes
}

func (d *discarded) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.pages, " ")
	d.pages = nil
	return s
}

// request has the device take one buffer.
func request(t testing.TB, d *virtiotest.Driver, queue int, b virtqtest.Buf) {
	t.Helper()
	if _, ok := d.Rings[queue].Add(b); !ok {
		t.Fatal("ring full")
	}
	d.Kick(queue)
	for deadline := time.Now().Add(time.Minute); ; {
		if _, _, ok := d.Rings[queue].Used(); ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no answer")
		}
		time.Sleep(10 * time.Microsecond)
	}
}

func TestBalloon(t *testing.T) {
	m := virtiotest.New(t)
	mem := &discarded{}
	dev := virtio.NewBalloon(mem, virtiotest.MemorySize)
	_, d := m.Plug(dev)
	d.Start(d.Features(), 2)
	addr, b := m.Alloc(64 << 10)
	put := func(pfns ...uint32) virtqtest.Buf {
		for i, pfn := range pfns {
			binary.LittleEndian.PutUint32(b[4*i:], pfn)
		}
		return virtqtest.Buf{Addr: addr, Len: uint32(4 * len(pfns))}
	}
	for _, test := range []struct {
		pfns []uint32
		want string
	}{
		{[]uint32{7}, "7+1"},
		{[]uint32{7, 8, 9, 20}, "7+3 20+1"},
		{[]uint32{30, 29, 28, 40}, "28+3 40+1"}, // Linux goes downwards
		{[]uint32{5, 5}, "5+1 5+1"},
		{[]uint32{1<<32 - 1}, "4294967295+1"}, // not RAM, which the memory knows
		{nil, ""},
	} {
		request(t, d, 0, put(test.pfns...))
		if got := mem.take(); got != test.want {
			t.Errorf("%v: discarded %q, want %q", test.pfns, got, test.want)
		}
	}
	if got := binary.LittleEndian.Uint32(b); got != 1<<32-1 {
		t.Errorf("the list was changed: %#x", got)
	}
	// A list cut within a number, and one that is longer than the guest has pages.
	request(t, d, 0, virtqtest.Buf{Addr: addr, Len: 7})
	if got := mem.take(); got != "4294967295+1" {
		t.Errorf("cut list: %q", got)
	}
	for i := range len(b) / 4 {
		binary.LittleEndian.PutUint32(b[4*i:], 2*uint32(i))
	}
	request(t, d, 0, virtqtest.Buf{Addr: addr, Len: uint32(len(b))})
	if got := len(strings.Fields(mem.take())); got != virtiotest.MemorySize/4096 {
		t.Errorf("%d pages of a list of %d", got, len(b)/4)
	}
	request(t, d, 1, put(7)) // deflate
	for _, queue := range []int{2, 3, 4} {
		before := mem.total()
		request(t, d, queue, virtqtest.Buf{Addr: addr, Len: uint32(len(b)), Write: true})
		if got := mem.total() - before; got != uint64(len(b)) {
			t.Errorf("queue %d: reported %d bytes of %d", queue, got, len(b))
		}
	}
	if got := dev.State().Reported; got != 3*uint64(len(b)) {
		t.Errorf("%d bytes reported", got)
	}
}

func TestBalloonTarget(t *testing.T) {
	m := virtiotest.New(t)
	dev := virtio.NewBalloon(&discarded{}, virtiotest.MemorySize)
	_, d := m.Plug(dev)
	if err := dev.SetTarget(8193); err != nil {
		t.Fatal(err)
	}
	d.Start(d.Features(), 2)
	if got := d.Device(0, 4); got != 3 {
		t.Errorf("target %d pages, want 3", got)
	}
	if err := dev.SetTarget(1 << 60); err != nil {
		t.Fatal(err)
	}
	m.IRQ.Wait(d.Message(0), 1)
	if got := d.Device(0, 4); got != virtiotest.MemorySize/4096 {
		t.Errorf("target %d pages, want all", got)
	}
	config := d.BAR + d.Caps[virtiotest.CapDevice].Off
	m.Write(config+4, 4, 17)
	m.Write(config, 4, 99)   // the host's
	m.Write(config+5, 1, 99) // half a register
	want := virtio.BalloonState{Target: virtiotest.MemorySize, Actual: 17 * 4096}
	if got := dev.State(); got != want {
		t.Errorf("state %+v, want %+v", got, want)
	}
	if !dev.Active() {
		t.Error("its driver is not noticed")
	}
	if d.Reset(); dev.Active() {
		t.Error("it is active after a reset")
	}
	if got := dev.State().Actual; got != 0 {
		t.Errorf("after a reset the guest has given %d", got)
	}
}

func TestHostileBalloon(t *testing.T) {
	testHostile(t, func(testing.TB) virtio.Device { return virtio.NewBalloon(&discarded{}, virtiotest.MemorySize) })
}

// FuzzBalloon sends any lists to any queue. The memory is real: nothing but its pages may change.
func FuzzBalloon(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 0, 0, 0}, uint8(0))
	f.Add([]byte{255, 255, 255, 255, 0, 16, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, list []byte, queue uint8) {
		m := virtiotest.New(t)
		_, d := m.Plug(virtio.NewBalloon(m.Mem, virtiotest.MemorySize))
		d.Start(d.Features(), 2)
		addr, b := m.Alloc(64 << 10)
		n := copy(b, list)
		if i := int(queue % 5); n > 0 { // the rings themselves may be given back
			d.Rings[i].Add(virtqtest.Buf{Addr: addr, Len: uint32(n), Write: i > 1})
			d.Kick(i)
		}
		d.Reset()
	})
}

func BenchmarkBalloonInflate(b *testing.B) {
	m := virtiotest.New(b)
	_, d := m.Plug(virtio.NewBalloon(m.Mem, virtiotest.MemorySize))
	d.Start(d.Features(), 2)
	addr, list := m.Alloc(1024)
	for i := range 256 {
		binary.LittleEndian.PutUint32(list[4*i:], 3000-uint32(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		request(b, d, 0, virtqtest.Buf{Addr: addr, Len: 1024})
	}
}
