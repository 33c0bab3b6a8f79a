package passthrough

import "slices"

// span is bytes [start, end) of a region.
type span struct{ start, end uint64 }

// subtract returns what of spans, which are ascending and disjoint, lies outside of s.
func subtract(spans []span, s span) []span {
	var rest []span
	for _, o := range spans {
		if s.end <= o.start || o.end <= s.start {
			rest = append(rest, o)
			continue
		}
		if o.start < s.start {
			rest = append(rest, span{o.start, s.start})
		}
		if s.end < o.end {
			rest = append(rest, span{s.end, o.end})
		}
	}
	return rest
}

// sorted orders spans by where they begin.
func sorted(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	return spans
}

func alignDown(n, unit uint64) uint64 { return n &^ (unit - 1) }
func alignUp(n, unit uint64) uint64   { return (n + unit - 1) &^ (unit - 1) }
