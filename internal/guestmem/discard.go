package guestmem

import (
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
)

// DiscardPages gives n bytes of RAM at gpa back to the host and returns how many those were: what is
// not RAM, or not in whole pages, is left out. The bytes read as zeros afterwards.
func (m *Memory) DiscardPages(gpa, n uint64) (discarded uint64) {
	last := gpa + n
	if last < gpa {
		return 0
	}
	for _, r := range m.regions {
		if from, to := max(gpa, r.Start), min(last, r.End()); from < to {
			discarded += m.DiscardBytes(r.Bytes[from-r.Start : to-r.Start])
		}
	}
	return discarded
}

// DiscardBytes gives the whole pages of b, a piece of RAM, back to the host and returns how many
// bytes those were. Memory of huge pages is given back in whole ones only.
func (m *Memory) DiscardBytes(b []byte) (discarded uint64) {
	const page = layout.PageSize
	skip := uint64(-sys.Addr(b) & (page - 1))
	if skip >= uint64(len(b)) {
		return 0
	}
	b = b[skip:]
	b = b[:len(b)&^(page-1)]
	if len(b) == 0 || sys.Discard(b) != nil {
		return 0
	}
	return uint64(len(b))
}
