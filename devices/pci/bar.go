package pci

import (
	"fmt"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/internal/layout"
)

// BAR describes one base address register and what is behind it. Bytes that no part
// covers read as ones.
type BAR struct {
	Size     uint64 // bytes, a power of two: at least 16 for memory, 4 for I/O
	Space    Space
	Is64     bool // takes the next register too
	Prefetch bool

	// Traps and Hosts must not overlap. Doorbells lie within traps, which see what
	// does not match the doorbell, or everything where the Mapper has no doorbells.
	Traps     []Trap
	Hosts     []Host
	Doorbells []Doorbell
}

// Trap is a part of a BAR that a handler answers.
type Trap struct {
	Off, Size uint64 // bytes within the BAR
	Handler   bus.Handler
}

// Host is a part of a BAR that is host memory, such as a mapped region of a device that
// is passed through. pci never touches the memory.
type Host struct {
	Off, Size  uint64  // bytes within the BAR, page-aligned
	Addr       uintptr // host virtual address, page-aligned; outside the Go heap
	ReadOnly   bool
	PeerToPeer bool // other devices may reach it by DMA
}

// Doorbell is a place in a BAR where a write signals an eventfd.
type Doorbell struct {
	Off     uint64 // bytes within the BAR
	Size    int    // width of the write: 1, 2, 4 or 8 bytes; 0 for any
	EventFD int
	Match   bool // only writes of Value
	Value   uint64
}

type extent struct {
	off, size uint64
	what      string
}

// validate checks the description; name and index appear in errors.
func (b *BAR) validate(name string, index int) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("pci: %s BAR %d: %s", name, index, fmt.Sprintf(format, args...))
	}
	least := uint64(16)
	if b.Space == IO {
		least = 4
	}
	switch {
	case b.Size < least || b.Size&(b.Size-1) != 0:
		return fail("size %#x is not a power of two of at least %d", b.Size, least)
	case b.Space == IO && (b.Size > 0x10000 || b.Is64 || b.Prefetch || len(b.Hosts) > 0):
		return fail("an I/O BAR has at most 64 KiB, is not 64-bit, prefetchable or host memory")
	case !b.Is64 && b.Size > 1<<31:
		return fail("size %#x needs a 64-bit BAR", b.Size)
	case index < 0 || index >= MaxBARs || b.Is64 && index == MaxBARs-1:
		return fail("no such register")
	}
	var parts []extent
	for _, t := range b.Traps {
		parts = append(parts, extent{t.Off, t.Size, "trap"})
	}
	for _, h := range b.Hosts {
		if (h.Off|h.Size|uint64(h.Addr))%layout.PageSize != 0 {
			return fail("host memory at %#x, %#x bytes is not page-aligned", h.Off, h.Size)
		}
		parts = append(parts, extent{h.Off, h.Size, "host memory"})
	}
	for i, p := range parts {
		if p.size == 0 || p.size > b.Size || p.off > b.Size-p.size {
			return fail("%s at %#x, %#x bytes is empty or outside", p.what, p.off, p.size)
		}
		for _, q := range parts[:i] {
			if p.off < q.off+q.size && q.off < p.off+p.size {
				return fail("%s at %#x overlaps %s at %#x", p.what, p.off, q.what, q.off)
			}
		}
	}
	for _, d := range b.Doorbells {
		if !b.trapped(d.Off, uint64(max(d.Size, 1))) {
			return fail("doorbell at %#x is not within a trap", d.Off)
		}
	}
	return nil
}

func (b *BAR) trapped(off, n uint64) bool {
	for _, t := range b.Traps {
		if off >= t.Off && off-t.Off < t.Size && n <= t.Size-(off-t.Off) {
			return true
		}
	}
	return false
}

// flags returns the read-only low bits of the register.
func (b *BAR) flags() uint32 {
	if b.Space == IO {
		return barIO
	}
	var f uint32
	if b.Is64 {
		f |= bar64
	}
	if b.Prefetch {
		f |= barPrefetch
	}
	return f
}
