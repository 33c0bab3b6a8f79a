package guestmem

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/layout"
)

const page = layout.PageSize

func memory(t *testing.T, ranges ...layout.Range) *Memory {
	t.Helper()
	m, err := New(ranges)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestSliceStaysInOneRegion(t *testing.T) {
	const second = 1 << 32
	m := memory(t, layout.Range{Start: 0, Size: 4 * page}, layout.Range{Start: 4 * page, Size: page}, layout.Range{Start: second, Size: page})
	for _, tt := range []struct {
		gpa, n uint64
		ok     bool
	}{
		{0, 4 * page, true}, {0, 0, true}, {4*page - 1, 1, true}, {second, page, true}, {second + page - 8, 8, true},
		{0, 4*page + 1, false}, {4*page - 1, 2, false}, {5 * page, 0, false}, {second - 1, 1, false}, {second + page, 1, false},
		{0, math.MaxUint64, false}, {math.MaxUint64, 2, false}, {second + 8, math.MaxUint64 - 4, false},
	} {
		b, err := m.Slice(tt.gpa, tt.n)
		if ok := err == nil; ok != tt.ok || ok && uint64(len(b)) != tt.n {
			t.Errorf("Slice(%#x, %#x): %d bytes, %v", tt.gpa, tt.n, len(b), err)
		}
		if err != nil && !errors.Is(err, ErrRange) {
			t.Errorf("Slice(%#x, %#x): %v, want ErrRange", tt.gpa, tt.n, err)
		}
		if cap(b) != len(b) {
			t.Errorf("Slice(%#x, %#x) can be appended to", tt.gpa, tt.n)
		}
	}
	if m.Size() != 6*page {
		t.Errorf("size %#x", m.Size())
	}
}

func TestReadWrite(t *testing.T) {
	m := memory(t, layout.Range{Start: 0x10000, Size: page})
	want := []byte("hello")
	if err := m.Write(0x10000+page-5, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if err := m.Read(0x10000+page-5, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if err := m.Write(0x10000+page-4, want); !errors.Is(err, ErrRange) {
		t.Errorf("a write over the end: %v", err)
	}
	if err := m.Read(0xffff, got); !errors.Is(err, ErrRange) {
		t.Errorf("a read before the start: %v", err)
	}
}

// A failing access must not let a guest make the VMM allocate.
func TestAccessDoesNotAllocate(t *testing.T) {
	m := memory(t, layout.Range{Start: 0, Size: page})
	var b [8]byte
	if n := testing.AllocsPerRun(100, func() {
		_ = m.Read(0, b[:])
		_ = m.Read(page, b[:])
		_ = m.Write(math.MaxUint64, b[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBadRanges(t *testing.T) {
	for name, ranges := range map[string][]layout.Range{
		"empty":        {{Start: 0, Size: 0}},
		"unaligned":    {{Start: 1, Size: page}},
		"half a page":  {{Start: 0, Size: page / 2}},
		"out of order": {{Start: page, Size: page}, {Start: 0, Size: page}},
		"overlapping":  {{Start: 0, Size: 2 * page}, {Start: page, Size: page}},
		"endless":      {{Start: 0, Size: math.MaxUint64 &^ (page - 1)}},
	} {
		if m, err := New(ranges); err == nil {
			m.Close()
			t.Errorf("%s: taken", name)
		}
	}
}

// Host and guest addresses are congruent, so that huge pages can back the memory.
func TestCongruence(t *testing.T) {
	m := memory(t, layout.Range{Start: 0x100000, Size: 4 << 20})
	r := m.Regions()[0]
	if (uint64(r.Addr())-r.Start)%hugePage != 0 {
		t.Errorf("host %#x, guest %#x", r.Addr(), r.Start)
	}
}

func TestResident(t *testing.T) {
	m := memory(t, layout.Range{Start: 0, Size: 64 << 20})
	if n := m.Resident(); n > 2*hugePage {
		t.Errorf("%d bytes resident before any access", n)
	}
	if err := m.Write(32<<20, []byte{1}); err != nil {
		t.Fatal(err)
	}
	if n := m.Resident(); n == 0 || n > 4*hugePage {
		t.Errorf("%d bytes resident after one write", n)
	}
}

func TestHugePagesThatAreNotThere(t *testing.T) {
	m, err := NewHuge([]layout.Range{{Start: 0, Size: 1 << 50}})
	if err == nil {
		m.Close()
		t.Fatal("a pool of a PiB")
	}
	if !errors.Is(err, unix.ENOMEM) {
		t.Errorf("%v, want ENOMEM", err)
	}
}
