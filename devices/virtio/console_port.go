package virtio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/virtq"
)

// ErrPortReset says that the guest reset the device under an open port. It is final until Reopen.
var ErrPortReset = errors.New("the guest reset the console")

// errPortClosed is why a stream ended that the guest's program closed: io.EOF to a reader, io.ErrClosedPipe to a writer.
var errPortClosed = errors.New("the guest closed the port")

// Port is the host's end of a byte stream: an io.ReadWriteCloser over the guest's
// buffers, with no memory of its own. Bytes are copied once, between the caller's slice
// and guest memory, by the caller. A guest that does not read blocks Write, a guest that
// does not write blocks Read, and a host that does not read blocks the guest.
//
// The stream begins when a guest program opens the port; until then both directions
// wait. It ends when that program closes it (Read: the rest of the data, then io.EOF;
// Write: io.ErrClosedPipe), when the device is reset under it (ErrPortReset), or by Close
// (os.ErrClosed). Reopen begins another one. Methods may be called concurrently.
type Port struct {
	console *Console
	number  int
	name    string
	isOpen  atomic.Bool // by the host
	notify  atomic.Pointer[func(bool)]

	in  stream // to the guest
	out stream // from the guest
}

// stream is one direction of a port.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	q       *Queue // nil while the device is not active
	guest   bool   // the guest has the port open
	err     error  // why the stream ended
	chain   virtq.Chain
	have    bool // chain is taken and not yet used up
}

func newPort(c *Console, number int, name string) *Port {
	p := &Port{console: c, number: number, name: name[:min(len(name), MaxPortName)]}
	p.isOpen.Store(true)
	p.in.changed.L, p.out.changed.L = &p.in.mu, &p.out.mu
	return p
}

// Name returns the port's name as the guest sees it.
func (p *Port) Name() string { return p.name }

// OnOpen makes fn be told when the guest opens or closes the port. It runs on the
// goroutine that serves the guest's control messages and must not block.
func (p *Port) OnOpen(fn func(open bool)) { p.notify.Store(&fn) }

func (p *Port) open() bool { return p.isOpen.Load() }

// Read reads what the guest has written, at least one byte.
func (p *Port) Read(b []byte) (int, error) {
	s := &p.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b) > 0 {
		n, more, err := s.take(b)
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, s.broken(err)
		case more: // nothing but empty chains so far: who resets the device must get the lock
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
			continue
		case s.err == errPortClosed:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		}
		s.changed.Wait()
	}
	return 0, nil
}

// take copies what is available, from no more than a batch of chains: those without a byte may come for ever. It reports whether
// there may be more.
func (s *stream) take(b []byte) (total int, more bool, _ error) {
	if s.q == nil || s.err != nil && s.err != errPortClosed {
		return 0, false, nil
	}
	for chains := 0; total < len(b); {
		if !s.have {
			if more = chains == batch; more {
				break
			}
			ok, err := next(s.q, &s.chain)
			if err != nil {
				return total, false, err
			}
			if !ok {
				break
			}
			chains++
			s.have = true
		}
		n, err := s.chain.Read(b[total:])
		total += n
		if err == io.EOF || s.chain.Unread() == 0 {
			s.have = false
			s.q.Release(&s.chain, 0)
		}
	}
	return total, more, s.q.Interrupt()
}

// Write writes all of b to the guest, or returns why it could not.
func (p *Port) Write(b []byte) (int, error) {
	s := &p.in
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for total < len(b) {
		switch {
		case s.err == errPortClosed:
			return total, io.ErrClosedPipe
		case s.err != nil:
			return total, s.err
		}
		n, err := s.put(b[total:], p.number == 0)
		total += n
		if err != nil {
			return total, s.broken(err)
		}
		if n == 0 {
			s.changed.Wait()
		}
	}
	return total, nil
}

// put copies what the guest has room for. always is for the console, which has no open.
func (s *stream) put(b []byte, always bool) (int, error) {
	total := 0
	if s.q == nil || !s.guest && !always {
		return 0, nil
	}
	for total < len(b) {
		ok, err := next(s.q, &s.chain)
		if err != nil {
			return total, err
		}
		if !ok {
			break
		}
		n, _ := s.chain.Write(b[total:]) // short where the buffer is
		if n == 0 {
			return total, fmt.Errorf("input buffer without room: %w", virtq.ErrGuest)
		}
		total += n
		s.q.Release(&s.chain, uint32(n))
	}
	return total, s.q.Interrupt()
}

// broken ends the stream because of a queue that the guest broke.
func (s *stream) broken(err error) error {
	s.q.t.Fail(fmt.Errorf("queue %d: %w", s.q.index, err))
	s.err = err
	return err
}

// Close ends the stream at the host. Waiting calls return os.ErrClosed.
func (p *Port) Close() error {
	if !p.isOpen.CompareAndSwap(true, false) {
		return nil
	}
	for _, s := range []*stream{&p.in, &p.out} {
		s.end(os.ErrClosed)
	}
	return p.console.tellOpen(p.number)
}

// Reopen begins a new stream after the last one has ended. What the guest still had in
// its queue belongs to the new one.
func (p *Port) Reopen() error {
	for _, s := range []*stream{&p.in, &p.out} {
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
	}
	if p.isOpen.Swap(true) {
		return nil
	}
	return p.console.tellOpen(p.number)
}

// guestOpened takes the guest's word that it opened or closed the port.
func (p *Port) guestOpened(open bool) {
	for _, s := range []*stream{&p.in, &p.out} {
		s.setGuest(open)
	}
	if fn := p.notify.Load(); fn != nil {
		(*fn)(open)
	}
}

func (s *stream) setGuest(open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guest && !open && s.err == nil {
		s.err = errPortClosed
	}
	s.guest = open
	s.changed.Broadcast()
}

func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || err == os.ErrClosed {
		s.err = err
	}
	s.changed.Broadcast()
}

// wake lets waiting calls look at the queue again.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *stream) queue() *Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.q
}

func (p *Port) activate(in, out *Queue) {
	p.in.attach(in)
	p.out.attach(out)
}

func (s *stream) attach(q *Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.q = q
	s.changed.Broadcast()
}

// deactivate takes the queues away. No call touches them after it returns: those that
// copy hold the stream's lock. A stream that the guest had open ends.
func (p *Port) deactivate() {
	for _, s := range []*stream{&p.in, &p.out} {
		s.mu.Lock()
		s.q, s.have = nil, false
		if s.guest && s.err == nil {
			s.err = ErrPortReset
		}
		s.guest = false
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}
