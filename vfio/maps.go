package vfio

import (
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/sys"
)

// Prot says what devices may do with mapped memory.
type Prot uint8

const (
	// Read lets devices read.
	Read Prot = 1 << iota
	// Write lets devices write.
	Write
)

// mapping is memory at an IOVA.
type mapping struct {
	iova uint64
	mem  []byte // not empty, outside the Go heap; never looked at
	prot Prot
}

func (m mapping) size() uint64 { return uint64(len(m.mem)) }
func (m mapping) last() uint64 { return m.iova + m.size() - 1 }
func (m mapping) addr() uint64 { return uint64(sys.Addr(m.mem)) }

func (m mapping) String() string {
	return fmt.Sprintf("IOVA %#x-%#x", m.iova, m.last())
}

// mapList is what is mapped, in the order of IOVAs.
type mapList []mapping

// fits returns an error if m overlaps something mapped.
func (l mapList) fits(m mapping) error {
	for _, o := range l {
		if m.iova <= o.last() && o.iova <= m.last() {
			return fmt.Errorf("map %v: overlaps the map of %v: unmap that first", m, o)
		}
	}
	return nil
}

func (l mapList) with(m mapping) mapList {
	i, _ := slices.BinarySearchFunc(l, m.iova, func(o mapping, iova uint64) int {
		if o.iova < iova {
			return -1
		}
		return 1
	})
	return slices.Insert(l, i, m)
}

// without removes all maps within size bytes at iova. At least one must be there, and none
// may stick out: the kernel cannot split a map.
func (l mapList) without(iova, size uint64) (mapList, error) {
	last := iova + size - 1
	if size == 0 || last < iova {
		return nil, fmt.Errorf("unmap %d bytes at IOVA %#x: no range", size, iova)
	}
	var rest mapList
	for _, m := range l {
		switch {
		case m.last() < iova || m.iova > last:
			rest = append(rest, m)
		case m.iova < iova || m.last() > last:
			return nil, fmt.Errorf("unmap IOVA %#x-%#x: would split the map of %v", iova, last, m)
		}
	}
	if len(rest) == len(l) {
		return nil, fmt.Errorf("unmap IOVA %#x-%#x: nothing is mapped there", iova, last)
	}
	return rest, nil
}
