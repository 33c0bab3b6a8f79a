package control

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// consoleKept is how much of a console's latest output is kept, in bytes, and how far a viewer
// may stay behind.
const consoleKept = 128 << 10

// Console is what a VM prints: the end of it in memory, for messages and for viewers, of which
// each reads at its own speed. A viewer that is slow misses some of it and never holds the VM
// up. Methods may be called concurrently.
type Console struct {
	mu      sync.Mutex
	changed sync.Cond
	ring    []byte // grows up to consoleKept
	total   uint64 // bytes ever written
	closed  bool
}

// NewConsole makes a console.
func NewConsole() *Console {
	c := &Console{}
	c.changed.L = &c.mu
	return c
}

// Write implements io.Writer. It never fails and never waits.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(p)
	c.total += uint64(max(0, n-consoleKept))
	p = p[max(0, n-consoleKept):]
	for len(p) > 0 {
		at := int(c.total % consoleKept)
		if at == len(c.ring) { // it still grows
			grown := append(c.ring, p[:min(len(p), consoleKept-at)]...)
			c.total += uint64(len(grown) - at)
			p = p[len(grown)-at:]
			c.ring = grown
			continue
		}
		k := copy(c.ring[at:], p)
		c.total += uint64(k)
		p = p[k:]
	}
	c.changed.Broadcast()
	return n, nil
}

// NeverWaits implements spool.Prompt.
func (c *Console) NeverWaits() {}

// Close ends the viewers' streams, once they have read all.
func (c *Console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

// oldest returns the position of the oldest byte that is kept.
func (c *Console) oldest() uint64 { return c.total - uint64(len(c.ring)) }

// Lines returns the last n lines, without carriage returns.
func (c *Console) Lines(n int) []byte {
	c.mu.Lock()
	b := make([]byte, len(c.ring))
	c.copyOut(b, c.oldest())
	c.mu.Unlock()
	text := bytes.TrimSpace(bytes.ReplaceAll(b, []byte{'\r'}, nil))
	from := len(text)
	for ; n > 0 && from > 0; n-- {
		from = bytes.LastIndexByte(text[:from], '\n')
		if from < 0 {
			return text
		}
	}
	if from < len(text) && text[from] == '\n' {
		from++
	}
	return text[from:]
}

// copyOut copies bytes from position from on, which is kept, and returns how many there were.
func (c *Console) copyOut(p []byte, from uint64) int {
	n := min(uint64(len(p)), c.total-from)
	for done := uint64(0); done < n; {
		at := int((from + done) % consoleKept)
		done += uint64(copy(p[done:n], c.ring[at:]))
	}
	return int(n)
}

// View returns a reader of the console: what is kept first, then what comes, then io.EOF. Its
// Close makes a waiting Read return.
func (c *Console) View() *View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &View{console: c, at: c.oldest()}
}

// View is one viewer's reader. Read has one caller at a time.
type View struct {
	console *Console
	at      uint64 // position of the next byte
	notice  []byte // of bytes that were missed, still to be read
	closed  bool
}

// Read implements io.Reader.
func (v *View) Read(p []byte) (int, error) {
	c := v.console
	c.mu.Lock()
	defer c.mu.Unlock()
	for v.at == c.total && len(v.notice) == 0 {
		if c.closed || v.closed {
			return 0, io.EOF
		}
		c.changed.Wait()
	}
	if v.closed {
		return 0, io.EOF
	}
	if oldest := c.oldest(); v.at < oldest {
		v.notice = fmt.Appendf(v.notice, "\r\n[%d bytes are left out here]\r\n", oldest-v.at)
		v.at = oldest
	}
	if len(v.notice) > 0 {
		n := copy(p, v.notice)
		v.notice = v.notice[n:]
		return n, nil
	}
	n := c.copyOut(p, v.at)
	v.at += uint64(n)
	return n, nil
}

// Close ends the view.
func (v *View) Close() error {
	v.console.mu.Lock()
	defer v.console.mu.Unlock()
	v.closed = true
	v.console.changed.Broadcast()
	return nil
}
