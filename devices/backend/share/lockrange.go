package share

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// maxLocks bounds the byte ranges that the guest has locked on the host, in one session: each takes the host's kernel some 200
// bytes and a step of every search among them.
const maxLocks = 4096

// heldRange is a range of bytes that is locked on the host, as the kernel has it: ranges of one file neither overlap nor, where they are
// of one kind, touch.
type heldRange struct {
	start, end int64 // end is the last byte
	typ        int16
}

// plan returns the ranges that are held after k, in order.
func plan(held []heldRange, k *unix.Flock_t) []heldRange {
	r := heldRange{k.Start, math.MaxInt64, k.Type}
	if k.Len > 0 && k.Len-1 <= math.MaxInt64-k.Start {
		r.end = k.Start + k.Len - 1
	}
	var after []heldRange
	for _, h := range held {
		touches := h.typ == r.typ && (h.end == math.MaxInt64 || h.end+1 >= r.start) && (r.end == math.MaxInt64 || h.start <= r.end+1)
		overlaps := h.end >= r.start && h.start <= r.end
		switch {
		case touches:
			r.start, r.end = min(r.start, h.start), max(r.end, h.end)
		case overlaps:
			if h.start < r.start {
				after = append(after, heldRange{h.start, r.start - 1, h.typ})
			}
			if h.end > r.end {
				after = append(after, heldRange{r.end + 1, h.end, h.typ})
			}
		default:
			after = append(after, h)
		}
	}
	if r.typ != unix.F_UNLCK {
		after = append(after, r)
	}
	slices.SortFunc(after, func(a, b heldRange) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	return after
}

// lockBounded takes or gives back a lock on the host, unless the session would hold too many.
func (s *Session) lockBounded(f *openFile, k *unix.Flock_t) error {
	f.lockMu.Lock()
	defer f.lockMu.Unlock()
	after := plan(f.held, k)
	more := len(after) - len(f.held)
	if err := s.countLocks(more); err != nil {
		return err
	}
	if err := f.lock(k); err != nil {
		_ = s.countLocks(-more) // as before
		return err
	}
	f.held = after
	return nil
}

// countLocks counts more, or less, ranges. Fewer always pass.
func (s *Session) countLocks(more int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if more > 0 && s.locks+more > maxLocks {
		return unix.ENOLCK
	}
	s.locks += more
	return nil
}
