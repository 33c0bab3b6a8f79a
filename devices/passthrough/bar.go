package passthrough

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	vmlayout "github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/vfio"
)

// Low bits of a BAR register (PCI 3.0, 6.2.5.1).
const (
	barIO       = 1
	barTypeMask = 6
	bar64       = 4
	barPrefetch = 8

	leastMemoryBAR = 16
	leastIOBAR     = 4
)

// hole is a part of a BAR that is answered here and not by the device.
type hole struct {
	span
	bar     int
	handler bus.Handler
}

// describeBAR makes the guest's BAR of the device's register and region. There is none where
// the region is empty.
func describeBAR(register uint32, index int, size uint64) (pci.BAR, error) {
	b := pci.BAR{Size: leastMemoryBAR}
	if register&barIO != 0 {
		b.Space, b.Size = pci.IO, leastIOBAR
	} else {
		b.Is64 = register&barTypeMask == bar64
		b.Prefetch = register&barPrefetch != 0
	}
	if size > 1<<(bits.UintSize-2) {
		return b, fmt.Errorf("BAR %d of %#x bytes is too large", index, size)
	}
	if size > b.Size {
		b.Size = 1 << bits.Len64(size-1)
	}
	return b, nil
}

// addBARs gives the guest's function the device's BARs.
func (f *Function) addBARs(cfg []byte, holes []hole) error {
	for i := 0; i < pci.MaxBARs; i++ {
		r := f.hw.BAR(i)
		if r.Size() == 0 {
			continue
		}
		b, err := describeBAR(get32(cfg, pci.RegBAR0+4*i), i, guestSize(r, i, holes))
		if err == nil {
			f.addParts(&b, i, r, holes)
			err = f.pci.SetBAR(i, b)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.hw.Name(), err)
		}
		f.hasIO = f.hasIO || b.Space == pci.IO
		f.hasMemory = f.hasMemory || b.Space == pci.Memory
		if b.Is64 {
			f.wide += b.Size
			f.widest = max(f.widest, b.Size)
			i++
		}
	}
	return nil
}

// guestSize returns how large the guest sees BAR index, in bytes. One below a page that can be mapped
// gets its page: the kernel lets it be mapped only where it begins the page and nothing else can
// come there, and with the page to itself in the guest, too, an access to it is no exit.
func guestSize(r Region, index int, holes []hole) uint64 {
	if small(r) && !slices.ContainsFunc(holes, func(h hole) bool { return h.bar == index }) {
		return vmlayout.PageSize
	}
	return r.Size()
}

// small reports whether a region is less than a page, and all of it can be mapped.
func small(r Region) bool {
	return r.Size() < vmlayout.PageSize && slices.Contains(r.Areas(), vfio.Area{Size: r.Size()})
}

// addROM gives the guest the expansion ROM, by reads: few look at it. The device's own enable
// bit is the kernel's.
func (f *Function) addROM() error {
	r := f.hw.ROM()
	if r.Size() == 0 || r.Size() > 1<<31 {
		return nil
	}
	b := pci.BAR{Size: max(pci.LeastROM, uint64(1)<<bits.Len64(r.Size()-1))}
	b.Traps = []pci.Trap{{Size: r.Size(), Handler: readOnly{&window{f, r, 0}}}}
	f.hasMemory = true
	return f.pci.SetROM(b)
}

// readOnly drops what the guest writes.
type readOnly struct{ *window }

func (readOnly) Write(uint64, []byte) {}

// addParts divides a BAR: what can be mapped becomes memory of the guest, holes go to their
// handlers, and all else to the device by reads and writes.
func (f *Function) addParts(b *pci.BAR, index int, r Region, holes []hole) {
	var mapped []span
	if b.Space == pci.Memory {
		mapped = mappable(r, b.Size)
	}
	rest := []span{{0, r.Size()}}
	for _, h := range holes {
		if h.bar != index {
			continue
		}
		page := span{alignDown(h.start, vmlayout.PageSize), alignUp(h.end, vmlayout.PageSize)}
		mapped, rest = subtract(mapped, page), subtract(rest, h.span)
		b.Traps = append(b.Traps, pci.Trap{Off: h.start, Size: h.end - h.start, Handler: h.handler})
	}
	for _, s := range mapped {
		m, err := r.Mmap(vfio.Area{Offset: s.start, Size: min(s.end, r.Size()) - s.start})
		if err != nil {
			f.warn(fmt.Errorf("BAR %d: each access to it will cost an exit: %w", index, err))
			continue
		}
		f.mapped += s.end - s.start
		f.mappings = append(f.mappings, m)
		b.Hosts = append(b.Hosts, pci.Host{Off: s.start, Size: s.end - s.start, Addr: m.Addr(), PeerToPeer: true})
		rest = subtract(rest, s)
	}
	for _, s := range rest {
		b.Traps = append(b.Traps, pci.Trap{Off: s.start, Size: s.end - s.start, Handler: &window{f, r, int64(s.start)}})
	}
}

// mappable returns the whole pages of what the kernel lets map of a BAR of size bytes.
func mappable(r Region, size uint64) []span {
	if small(r) && size == vmlayout.PageSize {
		return []span{{0, size}}
	}
	var spans []span
	for _, a := range r.Areas() {
		if a.Offset > r.Size() || a.Size > r.Size()-a.Offset {
			continue
		}
		s := span{alignUp(a.Offset, vmlayout.PageSize), alignDown(a.Offset+a.Size, vmlayout.PageSize)}
		if s.start < s.end {
			spans = append(spans, s)
		}
	}
	return disjoint(sorted(spans))
}

// disjoint joins spans, which are sorted, where they overlap or touch.
func disjoint(spans []span) []span {
	var joined []span
	for _, s := range spans {
		if n := len(joined); n > 0 && s.start <= joined[n-1].end {
			joined[n-1].end = max(joined[n-1].end, s.end)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// window passes accesses to a part of a region on. It implements bus.Handler.
type window struct {
	f      *Function
	region Region
	base   int64 // of the part, in the region
}

func (w *window) Read(off uint64, p []byte) {
	w.f.interrupts.beforeAccess()
	if _, err := w.region.ReadAt(p, w.base+int64(off)); err != nil {
		w.f.failed.Add(1) // the device does not decode, or is gone
		for i := range p {
			p[i] = 0xff
		}
	}
}

func (w *window) Write(off uint64, p []byte) {
	w.f.interrupts.beforeAccess()
	if _, err := w.region.WriteAt(p, w.base+int64(off)); err != nil {
		w.f.failed.Add(1)
	}
}
