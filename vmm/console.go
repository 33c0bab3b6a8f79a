package vmm

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// panicMark is how Linux begins the line that tells of a panic.
	panicMark = "Kernel panic - not syncing"
	// panicGrace is how long a guest that said it panicked may go on to say where,
	// before the VM ends. With panic=-1 on its command line it ends sooner by itself.
	panicGrace = 5 * time.Second
	maxLine    = 512 // bytes of one line that are looked at
)

// console passes on what the guest prints and notices a panic in it. The serial line
// and hvc0 share one; Write may be called concurrently and never fails, for a full disk
// behind the log is no reason to stop a device.
type console struct {
	onPanic func() // called once, panicGrace after the mark

	mu    sync.Mutex
	out   io.Writer
	line  []byte // the current line's beginning
	panic string // the line that told of a panic
	timer *time.Timer
}

func newConsole(out io.Writer, onPanic func()) *console {
	if out == nil {
		out = io.Discard
	}
	return &console{out: out, onPanic: onPanic, line: make([]byte, 0, maxLine)}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.out.Write(p)
	for rest := p; len(rest) > 0; {
		part, tail, ended := bytes.Cut(rest, []byte{'\n'})
		c.line = append(c.line, part[:min(len(part), maxLine-len(c.line))]...)
		if !ended {
			break
		}
		c.endLine()
		rest = tail
	}
	return len(p), nil
}

func (c *console) endLine() {
	if i := bytes.Index(c.line, []byte(panicMark)); i >= 0 && c.panic == "" {
		c.panic = string(bytes.TrimRight(c.line[i:], "\r"))
		c.timer = time.AfterFunc(panicGrace, c.onPanic)
	}
	c.line = c.line[:0]
}

// panicked returns the line that told of a panic, "" if there was none.
func (c *console) panicked() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.panic
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}
