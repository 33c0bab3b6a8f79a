// Package guestmem is the guest's RAM: mappings outside the Go heap, addressed by
// guest-physical address and bounds-checked.
//
// The memory is shared with running vCPUs. Whoever reads a structure from it copies
// it once and validates the copy.
package guestmem

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
)

// ErrRange is returned for an access that is not within one range of guest RAM. It is
// a sentinel without details so that a hostile guest cannot make the VMM allocate.
var ErrRange = errors.New("guest-physical address range is not RAM")

// hugePage is the alignment of host mappings, congruent with guest-physical
// addresses, so that 2 MiB pages can back them.
const hugePage = 2 << 20

// Region is one range of RAM: guest-physical Start ↔ host Bytes.
type Region struct {
	Start uint64 // guest-physical
	Bytes []byte
}

// End returns the first guest-physical address behind the region.
func (r Region) End() uint64 { return r.Start + uint64(len(r.Bytes)) }

// Addr returns the host virtual address of the region.
func (r Region) Addr() uintptr { return sys.Addr(r.Bytes) }

// Memory is the guest's RAM. Its regions are fixed at creation; all methods but Close
// may be called concurrently.
type Memory struct {
	regions  []Region
	mappings []*sys.Mapping
}

// New maps anonymous, zeroed memory for each range. Ranges must be page-aligned,
// ascending and disjoint. Transparent huge pages are asked for.
func New(ranges []layout.Range) (*Memory, error) { return makeMemory(ranges, addSmall) }

// NewHuge is New with memory from the host's pool of 2 MiB pages. The error is ENOMEM if
// the pool has not enough.
func NewHuge(ranges []layout.Range) (*Memory, error) { return makeMemory(ranges, addHuge) }

func makeMemory(ranges []layout.Range, add func(*Memory, layout.Range) error) (*Memory, error) {
	m := &Memory{}
	last := uint64(0)
	for _, r := range ranges {
		if r.Size == 0 || r.Start%layout.PageSize != 0 || r.Size%layout.PageSize != 0 || r.Start < last || r.Size > math.MaxInt-hugePage {
			m.Close()
			return nil, fmt.Errorf("guest RAM range %#x, %#x bytes: unaligned, empty, too large or out of order", r.Start, r.Size)
		}
		last = r.End()
		if err := add(m, r); err != nil {
			m.Close()
			return nil, fmt.Errorf("guest RAM at %#x: %w", r.Start, err)
		}
	}
	return m, nil
}

func addHuge(m *Memory, r layout.Range) error {
	mapping, err := sys.MapHuge(int(r.Size))
	if err != nil {
		return err
	}
	m.keep(mapping, r, 0)
	return nil
}

func addSmall(m *Memory, r layout.Range) error {
	mapping, err := sys.MapAnonymous(int(r.Size) + hugePage)
	if err != nil {
		return err
	}
	_ = mapping.Advise(unix.MADV_HUGEPAGE) // a hint; kernels without it refuse
	m.keep(mapping, r, (uintptr(r.Start)-mapping.Addr())&(hugePage-1))
	return nil
}

// keep makes r the bytes of mapping from skip on.
func (m *Memory) keep(mapping *sys.Mapping, r layout.Range, skip uintptr) {
	_ = mapping.Advise(unix.MADV_DONTFORK) // a child process must not share guest RAM
	_ = mapping.Advise(unix.MADV_DONTDUMP) // a core dump of the VMM is not one of the guest
	m.mappings = append(m.mappings, mapping)
	b := mapping.Bytes()[skip : skip+uintptr(r.Size) : skip+uintptr(r.Size)]
	m.regions = append(m.regions, Region{Start: r.Start, Bytes: b})
}

// Regions returns the regions in ascending order. The caller must not change the slice.
func (m *Memory) Regions() []Region { return m.regions }

// Size returns the bytes of RAM in all regions.
func (m *Memory) Size() uint64 {
	var n uint64
	for _, r := range m.regions {
		n += uint64(len(r.Bytes))
	}
	return n
}

// Slice returns n bytes of guest memory at gpa without copying. The guest may change
// them at any time. ErrRange if they are not within one region.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		off := gpa - r.Start
		if gpa < r.Start || off >= uint64(len(r.Bytes)) {
			continue
		}
		if n > uint64(len(r.Bytes))-off {
			return nil, ErrRange
		}
		return r.Bytes[off : off+n : off+n], nil
	}
	return nil, ErrRange
}

// Read copies len(p) bytes at gpa into p.
func (m *Memory) Read(gpa uint64, p []byte) error {
	b, err := m.Slice(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// Write copies p to gpa.
func (m *Memory) Write(gpa uint64, p []byte) error {
	b, err := m.Slice(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}

// Close unmaps the memory. No vCPU and no device may use it any more.
func (m *Memory) Close() error {
	var errs []error
	for _, mapping := range m.mappings {
		errs = append(errs, mapping.Close())
	}
	m.regions, m.mappings = nil, nil
	return errors.Join(errs...)
}

// Resident returns how many bytes of RAM are backed by host memory at present.
func (m *Memory) Resident() uint64 {
	var pages uint64
	var vec [4096]byte
	for _, r := range m.regions {
		for b := r.Bytes; len(b) > 0; {
			n := min(len(b), len(vec)*layout.PageSize)
			if sys.Mincore(b[:n], vec[:]) != nil {
				break
			}
			for _, v := range vec[:n/layout.PageSize] {
				pages += uint64(v & 1)
			}
			b = b[n:]
		}
	}
	return pages * layout.PageSize
}
