package vfio

import (
	"fmt"
	"strings"
)

// Range is a range of I/O virtual addresses, Last included.
type Range struct {
	Start uint64 `json:"start"`
	Last  uint64 `json:"last"`
}

func (r Range) String() string { return fmt.Sprintf("%#x-%#x", r.Start, r.Last) }

// Limits says what can be mapped. What is in no range is reserved (the MSI window at
// 0xfee00000, regions the firmware uses) or too wide for the IOMMU.
type Limits struct {
	Ranges    []Range `json:"ranges"`    // in order
	Alignment uint64  `json:"alignment"` // bytes; of IOVA, size and memory's address
	PageSizes uint64  `json:"pageSizes"` // a bit per size of IOMMU page, 0 if not known
	Maps      int     `json:"maps"`      // how many more maps can be made, -1 if not limited
}

// unlimited is where no IOMMU restricts anything.
func unlimited() Limits {
	return Limits{Ranges: []Range{{0, 1<<64 - 1}}, Alignment: 1, Maps: -1}
}

// Contains reports whether r lies within one range.
func (l Limits) Contains(r Range) bool {
	for _, o := range l.Ranges {
		if o.Start <= r.Start && r.Last <= o.Last {
			return true
		}
	}
	return false
}

// check returns an error if m cannot be mapped.
func (l Limits) check(m mapping) error {
	if bits := m.iova | m.size() | m.addr(); l.Alignment > 1 && bits%l.Alignment != 0 {
		return fmt.Errorf("map %v to memory at %#x: not aligned to the IOMMU's page of %d bytes", m, m.addr(), l.Alignment)
	}
	if l.Contains(Range{m.iova, m.last()}) {
		return nil
	}
	usable := make([]string, len(l.Ranges))
	for i, r := range l.Ranges {
		usable[i] = r.String()
	}
	return fmt.Errorf("map %v: not within what the IOMMU can translate for these devices, %s: "+
		"give the guest less memory, or place it elsewhere", m, strings.Join(usable, ", "))
}
