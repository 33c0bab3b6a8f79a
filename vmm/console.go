package vmm

import (
	"bytes"
	"io"
	"sync"

	"github.com/stile-vmm/stile/internal/kreport"
	"github.com/stile-vmm/stile/internal/spool"
)

const maxLine = 512 // bytes of one line that are looked at

// console passes on what the guest prints and notices reports of its kernel in it. The serial line
// and hvc0 share one; Write may be called concurrently and never fails, for a full disk
// behind the log is no reason to stop a device.
type console struct {
	trouble func(r kreport.Report, n int) // called at each report, the n-th of its kind, up to maxNotices; nil for nobody
	excused func(kreport.Report) bool     // whether what the kernel reports is excused; nil for never. It must not block

	mu   sync.Mutex
	out  io.Writer
	line []byte // the current line's beginning
	log  *kreport.Merged
	size uint64 // bytes written so far

	telling sync.WaitGroup // calls of trouble
}

// promptOutput returns a writer to out that keeps neither a vCPU nor a device waiting.
func promptOutput(out io.Writer) io.Writer {
	if _, ok := out.(spool.Prompt); ok || out == nil {
		return out
	}
	return spool.New(out)
}

// flushOutput waits, not for long, until what was written to out is where it goes.
func flushOutput(out io.Writer) {
	if f, ok := out.(interface{ Flush() }); ok {
		f.Flush()
	}
}

// newConsole returns a console whose output goes on to out. timed says that the kernel's lines are known to have a time.
func newConsole(out io.Writer, timed bool, trouble func(r kreport.Report, n int)) *console {
	if out == nil {
		out = io.Discard
	}
	return &console{trouble: trouble, out: out, line: make([]byte, 0, maxLine), log: kreport.NewMerged(timed)}
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
	line := c.line
	c.line = c.line[:0]
	if r, begins := c.log.Console(line); begins {
		c.tell(r)
	}
}

// record takes a record of the kernel's ring buffer, and returns its lines that the console did not have.
func (c *console) record(r kreport.Record) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	report, begins, fresh := c.log.Record(r)
	if begins {
		c.tell(report)
	}
	return fresh
}

// tell passes on a report that the last line has begun.
func (c *console) tell(r kreport.Report) {
	if c.excused != nil && c.excused(r) {
		c.log.Excuse()
		return
	}
	if n := c.log.Count(r.Kind); c.trouble != nil && n <= maxNotices {
		c.telling.Go(func() { c.trouble(r, n) }) // which may want to know what was printed
	}
}

// found returns the first report of a kind, if there was one.
func (c *console) found(kind kreport.Kind) (kreport.Report, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Find(kind)
}

// reports returns all of them, and how many are left out.
func (c *console) reports() ([]kreport.Report, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Reports(), c.log.Dropped()
}

// reporting reports whether lines of the last report may still come.
func (c *console) reporting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Open()
}

// written returns how many bytes the guest has printed.
func (c *console) written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}
