package guest

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/internal/kreport"
	"github.com/stile-vmm/stile/internal/session"
)

const (
	// pullDelay is when the ring buffer of a guest's kernel is first read: most commands are over before, and it is read at their end anyway.
	pullDelay = time.Second
	// drainLimit is how long the end of a guest waits for the rest of it.
	drainLimit = 2 * time.Second
	// maxDrain bounds that rest, in records.
	maxDrain = 1 << 16
)

// puller takes the ring buffer of a guest's kernel, which has all that a quiet console leaves out, while the guest lives.
type puller struct {
	record func(line []byte) // gets each record, one at a time

	mu   sync.Mutex
	stop func() // ends what follows the buffer, and waits for that; nil for nothing

	next uint64      // the first record that did not come yet; of whoever takes records
	over atomic.Bool // what still comes is too late
}

// follow takes records from a session on, until drain or the session's end.
func (p *puller) follow(s *session.Session) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop() // of the boot before, whose session has ended
	}
	p.next = 0
	p.stop = func() { cancel(); <-ended }
	go func() {
		defer close(ended)
		delay := time.NewTimer(pullDelay)
		defer delay.Stop()
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			return
		case <-delay.C:
		}
		_ = s.KernelLog(ctx, 0, true, p.take) // what is missing comes by drain
	}()
}

// take takes a record.
func (p *puller) take(line []byte) {
	if r, ok := kreport.ParseRecord(line); ok && !p.over.Load() {
		p.next = max(p.next, r.Seq+1)
		p.record(line)
	}
}

// drain takes what is left, and ends what follows the buffer. A guest that does not answer costs drainLimit.
func (p *puller) drain(s *session.Session) {
	p.mu.Lock()
	stop := p.stop
	p.stop = nil
	p.mu.Unlock()
	if stop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stop()
		n := 0
		_ = s.KernelLog(ctx, p.next, false, func(line []byte) {
			if n++; n > maxDrain {
				cancel()
				return
			}
			p.take(line)
		})
	}()
	select {
	case <-done:
	case <-ctx.Done(): // it ends with the session
	case <-s.Done():
	}
	cancel()
	p.over.Store(true)
}

// Recorder is a receiver of the console that also wants what the console did not show of the kernel's ring buffer.
type Recorder interface {
	io.Writer
	// TakesRecords does nothing.
	TakesRecords()
}

// opening notices the first line of a kernel's log in what it is written, at any place of a line.
type opening struct {
	mu   sync.Mutex
	tail []byte
	seen bool
}

// firstLine is in the first record of each boot. (init/version.c, linux_banner)
const firstLine = "] Linux version "

func (o *opening) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen {
		return len(p), nil
	}
	text := append(o.tail, p...)
	o.seen = bytes.Contains(text, []byte(firstLine))
	o.tail = append([]byte(nil), text[max(0, len(text)-len(firstLine)):]...)
	return len(p), nil
}

func (o *opening) whole() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}
