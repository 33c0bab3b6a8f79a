// Package spool puts a writer that may stall, such as a pipe whose reader waits, behind one that does not.
package spool

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// room is how much may wait for the writer, in bytes.
	room = 4 << 20
	// piece bounds one write, in bytes, so that a writer that is slow and one that stands still can be told apart.
	piece = 64 << 10
	// patience is how long a single write may take until the writer counts as stalled.
	patience = time.Second
	// flushTime bounds Flush and Close.
	flushTime = 10 * time.Second
)

// Prompt is a writer whose Write never waits for anybody, so that it needs no Spool.
type Prompt interface {
	io.Writer
	// NeverWaits does nothing.
	NeverWaits()
}

// Spool passes bytes on to a writer, on a goroutine of its own. A writer that is slow slows Write down. One that has stalled does
// not: then, once room is used up, bytes are left out, and a line in their place says how many. It is a Prompt, but for up to a
// second when its writer stalls. Methods may be called concurrently.
type Spool struct {
	to       io.Writer
	patience time.Duration
	done     chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte // not taken by the goroutine yet
	taken    int    // bytes that it has taken and not written
	missed   uint64 // bytes left out after buf
	progress uint64 // pieces written
	stalled  bool
	closed   bool
}

// New starts to pass on what is written to w, whose errors are ignored. The caller closes the Spool; w stays open.
func New(w io.Writer) *Spool { return newSpool(w, patience) }

func newSpool(w io.Writer, patience time.Duration) *Spool {
	s := &Spool{to: w, patience: patience, done: make(chan struct{})}
	s.changed.L = &s.mu
	go s.run()
	return s
}

// NeverWaits implements Prompt.
func (s *Spool) NeverWaits() {}

// Write implements io.Writer. It never fails.
func (s *Spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	for len(p) > 0 && !s.closed {
		free := room - len(s.buf) - s.taken
		if free <= 0 {
			if !s.await() {
				s.missed += uint64(len(p))
				break
			}
			continue
		}
		s.sayMissed()
		k := min(free, len(p))
		s.buf = append(s.buf, p[:k]...)
		p = p[k:]
		s.changed.Broadcast()
	}
	return n, nil
}

// sayMissed adds the line in place of what was left out.
func (s *Spool) sayMissed() {
	if s.missed > 0 {
		s.buf = fmt.Appendf(s.buf, "\r\n[%d bytes are left out here: their reader stood still]\r\n", s.missed)
		s.missed = 0
	}
}

// await waits until the goroutine has written a piece, and reports false if the writer has stalled.
func (s *Spool) await() bool {
	if s.stalled {
		return false
	}
	seen := s.progress
	timer := time.AfterFunc(s.patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.progress == seen {
			s.stalled = true
			s.changed.Broadcast()
		}
	})
	defer timer.Stop()
	for s.progress == seen && !s.stalled && !s.closed {
		s.changed.Wait()
	}
	return s.progress != seen
}

// run writes until Close.
func (s *Spool) run() {
	defer close(s.done)
	var spare []byte
	for {
		s.mu.Lock()
		for s.empty() && !s.closed {
			s.changed.Wait()
		}
		s.sayMissed()
		if len(s.buf) == 0 {
			s.mu.Unlock()
			return
		}
		batch := s.buf
		s.buf, s.taken = spare[:0], len(batch)
		s.mu.Unlock()
		s.writeAll(batch)
		spare = batch
	}
}

// writeAll writes a batch in pieces.
func (s *Spool) writeAll(batch []byte) {
	for len(batch) > 0 {
		n := min(len(batch), piece)
		_, _ = s.to.Write(batch[:n]) // who writes can't help it
		batch = batch[n:]
		s.mu.Lock()
		s.taken -= n
		s.progress++
		s.stalled = false
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

func (s *Spool) empty() bool { return len(s.buf) == 0 && s.taken == 0 && s.missed == 0 }

// Flush waits until all is written, or the writer has stalled.
func (s *Spool) Flush() {
	end := time.Now().Add(flushTime)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = false // it may go on by now
	for !s.empty() && !s.closed && time.Now().Before(end) && s.await() {
	}
}

// Close is Flush, and ends the goroutine; of a writer that has stalled, once its write returns. Further calls do nothing.
func (s *Spool) Close() error {
	s.Flush()
	s.mu.Lock()
	s.closed = true
	if !s.empty() {
		s.buf, s.missed = nil, 0 // nobody waits for it
	}
	idle := s.taken == 0
	s.changed.Broadcast()
	s.mu.Unlock()
	if idle {
		<-s.done
	}
	return nil
}
