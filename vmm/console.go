package vmm

import (
	"bytes"
	"io"
	"sync"
)

const maxLine = 512 // bytes of one line that are looked at

// console passes on what the guest prints and notices trouble in it. The serial line
// and hvc0 share one; Write may be called concurrently and never fails, for a full disk
// behind the log is no reason to stop a device.
//
// Programs in the guest write to the same console. Once a line had the time that the kernel begins its own with, the others
// are not taken for the kernel's.
type console struct {
	trouble func(Result)      // called once for each kind of trouble; nil for nobody
	excused func(Result) bool // whether what the kernel reports is excused; nil for never. It must not block
	marks   []mark

	mu    sync.Mutex
	out   io.Writer
	line  []byte // the current line's beginning
	timed bool   // the kernel's lines have a time
	told  map[Reason]Result
	size  uint64 // bytes written so far

	telling sync.WaitGroup // calls of trouble
}

// newConsole returns a console whose output goes on to out. timed says that the kernel's lines are known to have a time.
func newConsole(out io.Writer, timed bool, trouble func(Result)) *console {
	if out == nil {
		out = io.Discard
	}
	return &console{trouble: trouble, marks: marks(), out: out, timed: timed, line: make([]byte, 0, maxLine), told: make(map[Reason]Result)}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.out.Write(p)
	c.size += uint64(len(p))
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
	said, timed := behindTime(c.line)
	c.timed = c.timed || timed
	if !c.timed {
		said = c.line
	}
	r, found := find(c.marks, said)
	c.line = c.line[:0]
	if !found || c.told[r.Reason].Reason != "" || c.excused != nil && c.excused(r) {
		return
	}
	c.told[r.Reason] = r
	if c.trouble != nil {
		c.telling.Go(func() { c.trouble(r) }) // which may want to know what was printed
	}
}

// found returns the trouble of a kind that the guest told of, if it did.
func (c *console) found(kind Reason) (Result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.told[kind]
	return r, ok
}

// written returns how many bytes the guest has printed.
func (c *console) written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}
