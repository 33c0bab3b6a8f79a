package bus

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// ram is a handler that remembers bytes and checks the bounds it was promised.
type ram struct {
	t     testing.TB
	bytes []byte
}

func (r *ram) check(off uint64, p []byte) {
	if off+uint64(len(p)) > uint64(len(r.bytes)) || len(p) == 0 {
		r.t.Errorf("access at %#x, %d bytes in a region of %d", off, len(p), len(r.bytes))
	}
}

func (r *ram) Read(off uint64, p []byte)  { r.check(off, p); copy(p, r.bytes[off:]) }
func (r *ram) Write(off uint64, p []byte) { r.check(off, p); copy(r.bytes[off:], p) }

func add(t testing.TB, b *Bus, start, size uint64) (*ram, *Registration) {
	t.Helper()
	h := &ram{t: t, bytes: make([]byte, size)}
	r, err := b.Add("ram", start, size, h)
	if err != nil {
		t.Fatal(err)
	}
	return h, r
}

func TestAccess(t *testing.T) {
	var b Bus
	a, _ := add(t, &b, 0x100, 4)
	c, _ := add(t, &b, 0x104, 4) // adjacent
	e, _ := add(t, &b, 0x110, 2)
	top, _ := add(t, &b, math.MaxUint64-1, 2)
	copy(a.bytes, "abcd")
	copy(c.bytes, "efgh")
	copy(e.bytes, "ij")
	copy(top.bytes, "yz")
	for _, test := range []struct {
		name    string
		addr    uint64
		want    string
		claimed bool
	}{
		{"whole", 0x100, "abcd", true},
		{"inside", 0x101, "bc", true},
		{"adjacent", 0x102, "cdef", true},
		{"before", 0xfe, "\xff\xffab", false},
		{"behind", 0x106, "gh\xff\xff", false},
		{"hole between", 0x10c, "\xff\xff\xff\xffij\xff\xff", false},
		{"nothing", 0x200, "\xff", false},
		{"zero bytes", 0x200, "", true},
		{"top", math.MaxUint64 - 1, "yz", true},
		{"wraps", math.MaxUint64, "z\xff", false},
	} {
		p := make([]byte, len(test.want))
		claimed := b.Read(test.addr, p)
		if string(p) != test.want || claimed != test.claimed {
			t.Errorf("%s: read %q, %v; want %q, %v", test.name, p, claimed, test.want, test.claimed)
		}
	}
	if b.Write(0x10e, []byte("1234")) {
		t.Error("a write that begins in a hole was wholly claimed")
	}
	if string(e.bytes) != "34" {
		t.Errorf("straddling write left %q, want %q", e.bytes, "34")
	}
}

func TestAddRefuses(t *testing.T) {
	var b Bus
	add(t, &b, 0x100, 0x10)
	for _, test := range []struct {
		start, size uint64
		overlap     bool
	}{
		{0x100, 0x10, true}, {0xff, 2, true}, {0x10f, 1, true}, {0, 0x1000, true}, {0x104, 4, true},
		{0x200, 0, false}, {math.MaxUint64, 2, false}, {2, math.MaxUint64, false},
	} {
		_, err := b.Add("x", test.start, test.size, &ram{t: t})
		if err == nil || errors.Is(err, ErrOverlap) != test.overlap {
			t.Errorf("Add(%#x, %#x) = %v; want an error, overlap %v", test.start, test.size, err, test.overlap)
		}
	}
}

// blocker holds its callers until it is released.
type blocker struct{ entered, release chan struct{} }

func (h *blocker) Read(uint64, []byte)  { h.entered <- struct{}{}; <-h.release }
func (h *blocker) Write(uint64, []byte) {}

func TestRemoveWaits(t *testing.T) {
	var b Bus
	h := &blocker{make(chan struct{}), make(chan struct{})}
	r, err := b.Add("blocker", 0, 4, h)
	if err != nil {
		t.Fatal(err)
	}
	var left atomic.Bool
	go func() {
		b.Read(0, make([]byte, 4))
		left.Store(true)
	}()
	<-h.entered
	r.Detach() // does not wait
	if b.Read(0, make([]byte, 4)) {
		t.Error("a detached region answers")
	}
	if !r.Busy() {
		t.Error("a region with a call in flight is not busy")
	}
	add(t, &b, 0, 4) // the place is free at once
	removed := make(chan struct{})
	go func() { r.Remove(); close(removed) }()
	select {
	case <-removed:
		t.Fatal("Remove did not wait for the call in flight")
	default:
	}
	close(h.release)
	<-removed
	r.Remove() // again: nothing to do
	if r.Busy() {
		t.Error("a removed region is busy")
	}
}

// mover detaches its own region from within.
type mover struct{ r *Registration }

func (h *mover) Read(uint64, []byte)  {}
func (h *mover) Write(uint64, []byte) { h.r.Detach() }

func TestDetachFromHandler(t *testing.T) {
	var b Bus
	h := &mover{}
	var err error
	if h.r, err = b.Add("mover", 0, 4, h); err != nil {
		t.Fatal(err)
	}
	b.Write(0, []byte{1})
	if b.Write(0, []byte{1}) {
		t.Error("the region is still there")
	}
	h.r.Remove()
}

// dead is a handler that must not be called once it is freed.
type dead struct {
	t     *testing.T
	freed atomic.Bool
}

func (h *dead) Read(uint64, []byte) {
	if h.freed.Load() {
		h.t.Error("handler called after Remove returned")
	}
}
func (h *dead) Write(uint64, []byte) {}

func TestConcurrentChange(t *testing.T) {
	var b Bus
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			p := make([]byte, 4)
			for !stop.Load() {
				b.Read(rand.Uint64N(64), p)
			}
		})
	}
	var changers sync.WaitGroup
	for i := range uint64(4) {
		changers.Go(func() {
			for range 500 {
				h := &dead{t: t}
				r, err := b.Add("x", i*16, 16, h)
				if err != nil {
					t.Error(err)
					return
				}
				r.Remove()
				h.freed.Store(true)
			}
		})
	}
	changers.Wait()
	stop.Store(true)
	readers.Wait()
}

// FuzzBus compares the bus with an array of bytes.
func FuzzBus(f *testing.F) {
	f.Add([]byte{0, 4, 4, 8, 20, 3}, uint8(2), uint8(8))
	f.Add([]byte{0, 1, 1, 1, 2, 1}, uint8(0), uint8(3))
	f.Fuzz(func(t *testing.T, layout []byte, at, n uint8) {
		var b Bus
		model := bytes.Repeat([]byte{0xff}, 600)
		owned := make([]bool, len(model))
		for i := 0; i+1 < len(layout); i += 2 {
			start, size := uint64(layout[i]), uint64(layout[i+1])
			h := &ram{t: t, bytes: bytes.Repeat([]byte{byte(i)}, int(size))}
			overlap := size == 0
			for k := start; k < start+size; k++ {
				overlap = overlap || owned[k]
			}
			if _, err := b.Add("x", start, size, h); (err != nil) != overlap {
				t.Fatalf("Add(%d, %d) = %v, overlap %v", start, size, err, overlap)
			}
			for k := start; k < start+size && !overlap; k++ {
				owned[k], model[k] = true, byte(i)
			}
		}
		p := make([]byte, n)
		b.Read(uint64(at), p)
		if want := model[at : int(at)+int(n)]; !bytes.Equal(p, want) {
			t.Fatalf("read at %d: %x, want %x", at, p, want)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var bus Bus
	for i := range uint64(40) {
		add(b, &bus, i*0x1000, 0x100)
	}
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		bus.Read(0x11010, p)
	}
}
