package kreport

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// Merged is a Log of what comes both ways: on the console, and from the ring buffer, which has also what a quiet console
// leaves out. A line counts once. Methods must not be called concurrently.
type Merged struct {
	console, ring *Log
	seen          keys
	last          *Log // that of the last report
}

// NewMerged returns an empty log. timed says that the kernel's lines on the console are known to begin with a time.
func NewMerged(timed bool) *Merged {
	m := &Merged{console: NewLog(timed), ring: NewLog(true)}
	m.last = m.console
	return m
}

// Console takes a line of the console, and returns the report that it begins, if it does.
func (m *Merged) Console(line []byte) (Report, bool) {
	if seconds, text, ok := stamp(line); ok && !m.seen.add(uint64(math.Round(seconds*1e6)), text) {
		m.console.timed = true
		return Report{}, false
	}
	return m.note(m.console, func() (Report, bool) { return m.console.Console(line) })
}

// Record takes a record of the ring buffer. fresh is its lines as a console prints them, those that the console did not have. Records that
// a program wrote are in it, and begin no report.
func (m *Merged) Record(r Record) (report Report, begins bool, fresh []byte) {
	for line := range bytes.SplitSeq(r.Text, []byte{'\n'}) {
		if !m.seen.add(r.Micros, line) {
			continue
		}
		fresh = append(fresh, r.consoleLine(line)...)
		if r.Facility != 0 {
			continue
		}
		if found, ok := m.note(m.ring, func() (Report, bool) { return m.ring.add(float64(r.Micros)/1e6, line) }); ok && !begins {
			report, begins = found, true
		}
	}
	return report, begins, fresh
}

func (m *Merged) note(l *Log, add func() (Report, bool)) (Report, bool) {
	r, begins := add()
	if begins {
		m.last = l
	}
	return r, begins
}

// Excuse takes back the report that the last line has begun.
func (m *Merged) Excuse() { m.last.Excuse() }

// Open reports whether lines of the last report may still come.
func (m *Merged) Open() bool { return m.last.Open() }

// Reports returns a copy of what was reported, by time: of each way the first maxReports, and the first of each kind.
func (m *Merged) Reports() []Report {
	all := append(m.console.Reports(), m.ring.Reports()...)
	slices.SortStableFunc(all, func(a, b Report) int { return cmp.Compare(a.Time, b.Time) })
	return all
}

// Count returns how many reports of a kind there were.
func (m *Merged) Count(k Kind) int { return m.console.Count(k) + m.ring.Count(k) }

// Dropped returns how many reports Reports leaves out.
func (m *Merged) Dropped() int { return m.console.Dropped() + m.ring.Dropped() }

// Find returns the first report of a kind.
func (m *Merged) Find(k Kind) (Report, bool) {
	for _, r := range m.Reports() {
		if r.Kind == k {
			return r, true
		}
	}
	return Report{}, false
}
