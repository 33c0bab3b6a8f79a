package boot

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// MemType is the kind of a span in the memory map (ACPI 6.4, table 15.1). PVH uses the
// same numbers.
type MemType uint32

const (
	// RAM is for the guest to use.
	RAM MemType = 1
	// Reserved is not.
	Reserved MemType = 2
)

// MapEntry is one span of the memory map that the guest is given.
type MapEntry struct {
	Span
	Type MemType
}

// maxE820 is the room in the zero page (E820_MAX_ENTRIES_ZEROPAGE), less one that
// Linux's PVH entry adds.
const maxE820 = 127

// tssPages is what KVM takes for the TSS, behind the page of the identity map.
const tssPages = 3

// E820 returns the memory map of a guest with these regions of RAM, ascending.
func E820(regions []guestmem.Region) ([]MapEntry, error) {
	legacy := Span{layout.LowRAMTop, layout.HighRAM - layout.LowRAMTop} // EBDA to ACPI tables
	m := []MapEntry{
		{legacy, Reserved},
		{Span{layout.ECAM, layout.ECAMSize}, Reserved},
		{Span{layout.IdentityMap, layout.TSS + tssPages*layout.PageSize - layout.IdentityMap}, Reserved},
	}
	for _, r := range regions {
		m = appendRAM(m, r.Start, min(r.End(), legacy.Start))
		m = appendRAM(m, max(r.Start, legacy.End()), r.End())
	}
	slices.SortFunc(m, func(a, b MapEntry) int { return cmp.Compare(a.Start, b.Start) })
	if len(m) > maxE820 {
		return nil, fmt.Errorf("memory map of %d entries, at most %d fit: RAM is in too many pieces", len(m), maxE820)
	}
	for i := range m[1:] {
		if m[i].End() > m[i+1].Start {
			return nil, fmt.Errorf("guest RAM overlaps %#x, which is reserved", max(m[i].Start, m[i+1].Start))
		}
	}
	return m, nil
}

func appendRAM(m []MapEntry, start, end uint64) []MapEntry {
	if start >= end {
		return m
	}
	return append(m, MapEntry{Span{start, end - start}, RAM})
}
