package lab

import (
	"strings"
	"sync"
)

// tail is a writer that keeps the last bytes of what was written. It may be used concurrently.
type tail struct {
	limit int // bytes

	mu  sync.Mutex
	buf []byte
	cut bool // whether anything was dropped
}

func newTail(limit int) *tail { return &tail{limit: limit} }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.limit { // move bytes rarely
		t.trim()
	}
	return len(p), nil
}

func (t *tail) trim() {
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
}

// lines returns the last n lines that are not blank, without carriage returns.
func (t *tail) lines(n int) []string {
	t.mu.Lock()
	t.trim()
	text, cut := string(t.buf), t.cut
	t.mu.Unlock()

	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, strings.TrimRight(line, "\r"))
	}
	if cut {
		lines = lines[1:] // starts in the middle
	}
	var full []string
	for _, line := range lines {
		if strings.TrimSpace(line) != "" {
			full = append(full, line)
		}
	}
	return full[max(0, len(full)-n):]
}
