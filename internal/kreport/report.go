package kreport

import (
	"bytes"
	"math"
	"strings"
	"unicode/utf8"
)

// Bounds on what is kept of a guest's text.
const (
	maxReports = 64  // reports; of further ones only the first of each kind
	maxLines   = 24  // lines of a report behind its first one
	maxText    = 512 // bytes of a line
	maxGap     = 2.0 // seconds between two lines of a report, in the guest's time
)

// Report is one report of a kernel.
type Report struct {
	Kind Kind `json:"kind"`
	// Time is when it was logged, in seconds since the kernel's start; 0 where its lines have no times.
	Time float64 `json:"time"`
	Text string  `json:"text"` // its first line, without the time
	// Lines are the first ones that follow.
	Lines []string `json:"lines,omitempty"`
}

// String returns the first line.
func (r Report) String() string { return r.Text }

// Head returns the first n lines, or all that there are.
func (r Report) Head(n int) string {
	return strings.Join(append([]string{r.Text}, r.Lines[:min(max(n-1, 0), len(r.Lines))]...), "\n")
}

// Log collects the reports of one kernel from the lines of its log. Methods must not be called concurrently.
type Log struct {
	matcher matcher
	timed   bool // the kernel's lines have a time; others are not the kernel's
	reports []Report
	counts  map[Kind]int

	open bool    // lines still belong to the last report
	died bool    // of an oops that is open: its line with the error code was there
	last float64 // the time of the last line
	// Lines behind "cut here", before the header: the text of a WARN.
	cut   []string
	inCut bool
}

// NewLog returns an empty log. timed says that the kernel's lines are known to begin with a time.
func NewLog(timed bool) *Log {
	return &Log{matcher: newMatcher(), timed: timed, counts: make(map[Kind]int)}
}

// Console takes a line of a console, to which programs write, too: once a line had a time, lines without are not taken for
// the kernel's. It returns the report that the line begins, if it does.
func (l *Log) Console(line []byte) (Report, bool) {
	seconds, text, ok := stamp(line)
	l.timed = l.timed || ok
	switch {
	case ok:
		return l.add(seconds, text)
	case !l.timed:
		return l.add(0, untimed(line))
	}
	return Report{}, false
}

// untimed is what a kernel says whose lines have no times: behind its caller. A panic may stand behind a prompt.
func untimed(line []byte) []byte {
	const panicked, end = "Kernel panic - not syncing", "---[ end "
	if at := bytes.Index(line, []byte(panicked)); at > 0 && !bytes.HasSuffix(line[:at], []byte(end)) {
		return line[at:]
	}
	return withoutCaller(line)
}

// add takes a line of the kernel without its time.
func (l *Log) add(seconds float64, text []byte) (Report, bool) {
	text = bytes.TrimRight(text, "\r\n")
	if l.open && math.Abs(seconds-l.last) > maxGap {
		l.open = false
	}
	l.last = seconds
	kind, header := l.matcher.match(text)
	if kind == "" || l.continues(kind, header) {
		l.follow(text)
		return Report{}, false
	}
	r := Report{Kind: kind, Time: seconds, Text: clean(header), Lines: l.cut}
	l.cut, l.inCut = nil, false
	l.counts[kind]++
	l.open, l.died = true, dieLine.Match(header)
	if len(l.reports) >= maxReports && l.counts[kind] > 1 {
		l.open = false // its lines are not kept
		return r, true
	}
	l.reports = append(l.reports, r)
	return r, true
}

// continues reports whether a header is the next part of the oops that is open: an address first, the error code then.
func (l *Log) continues(kind Kind, header []byte) bool {
	if !l.open || kind != Oops || len(l.reports) == 0 || l.reports[len(l.reports)-1].Kind != Oops || l.died {
		return false
	}
	l.died = dieLine.Match(header)
	return l.died
}

// follow adds a line to the report that is open, or ends it.
func (l *Log) follow(text []byte) {
	switch {
	case bytes.HasPrefix(text, []byte("------------[ cut here ]")):
		l.cut, l.inCut = nil, true
		return
	case bytes.HasPrefix(text, []byte("---[ end trace")), bytes.HasPrefix(text, []byte("================")):
		l.open = l.open && len(l.reports[len(l.reports)-1].Lines) == 0 // lockdep and others underline their header
		return
	}
	if l.open {
		if r := &l.reports[len(l.reports)-1]; len(r.Lines) < maxLines {
			r.Lines = append(r.Lines, clean(text))
		}
		return
	}
	if l.inCut && len(l.cut) < 2 {
		l.cut = append(l.cut, clean(text))
	}
}

// Open reports whether lines of the last report may still come.
func (l *Log) Open() bool { return l.open }

// Excuse takes back the report that the last line has begun.
func (l *Log) Excuse() {
	if n := len(l.reports); n > 0 && l.open {
		l.counts[l.reports[n-1].Kind]--
		l.reports, l.open = l.reports[:n-1], false
	}
}

// Reports returns a copy of what was reported: the first maxReports, and the first of each kind.
func (l *Log) Reports() []Report { return append([]Report(nil), l.reports...) }

// Count returns how many reports of a kind there were.
func (l *Log) Count(k Kind) int { return l.counts[k] }

// Dropped returns how many reports Reports leaves out.
func (l *Log) Dropped() int {
	n := -len(l.reports)
	for _, count := range l.counts {
		n += count
	}
	return n
}

// Find returns the first report of a kind.
func (l *Log) Find(k Kind) (Report, bool) {
	for _, r := range l.reports {
		if r.Kind == k {
			return r, true
		}
	}
	return Report{}, false
}

// clean is text that can be printed on a terminal.
func clean(text []byte) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError:
			return '?'
		}
		return r
	}, string(text))
}
