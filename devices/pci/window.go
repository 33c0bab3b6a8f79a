package pci

import (
	"slices"

	"github.com/stile-vmm/stile/internal/layout"
)

// window hands out naturally aligned addresses of one range.
type window struct {
	layout.Range
	used []layout.Range // ascending, disjoint
}

// take returns the lowest free address for size bytes, a power of two.
func (w *window) take(size uint64) (uint64, bool) {
	at := (w.Start + size - 1) &^ (size - 1)
	i := 0
	for ; i < len(w.used); i++ {
		u := w.used[i]
		if at+size <= u.Start {
			break
		}
		if at < u.End() {
			at = (u.End() + size - 1) &^ (size - 1)
		}
	}
	if at < w.Start || at-w.Start > w.Size || w.Size-(at-w.Start) < size {
		return 0, false
	}
	w.used = slices.Insert(w.used, i, layout.Range{Start: at, Size: size})
	return at, true
}

func (w *window) give(at uint64) {
	w.used = slices.DeleteFunc(w.used, func(r layout.Range) bool { return r.Start == at })
}

func contains(r layout.Range, addr, size uint64) bool {
	return addr >= r.Start && addr-r.Start < r.Size && size <= r.Size-(addr-r.Start)
}
