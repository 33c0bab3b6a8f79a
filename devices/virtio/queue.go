package virtio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/internal/sys"
)

// batch is how many chains Drain takes before it lets the driver know of those done.
const batch = 32

// Queue is an active virtqueue with its doorbell and interrupt.
type Queue struct {
	*virtq.Queue
	index   int
	bell    *sys.EventFD
	vector  *atomic.Uint32
	t       *Transport
	stopped *atomic.Bool
	done    <-chan struct{}
}

// Index returns the queue's number within the device.
func (q *Queue) Index() int { return q.index }

// Done returns a channel that is closed when the device is being reset.
func (q *Queue) Done() <-chan struct{} { return q.done }

// Stopped reports whether Done is closed.
func (q *Queue) Stopped() bool { return q.stopped.Load() }

// Kick makes the queue's goroutine call Serve, as the driver's doorbell does.
func (q *Queue) Kick() error { return q.bell.Signal() }

// Interrupt tells the driver about released chains, if it wants to know.
func (q *Queue) Interrupt() error {
	if !q.NeedInterrupt() {
		return nil
	}
	return q.t.interrupt(q.vector, isrQueue)
}

// callFD returns the eventfd of the queue's MSI-X vector, -1 if it has none.
func (q *Queue) callFD() (int, error) {
	if !q.t.msix.Enabled() {
		return -1, errors.New("the driver uses no MSI-X")
	}
	return q.t.msix.EventFD(int(q.vector.Load()))
}

// Drain calls fn for each available chain and releases the chain with the number of
// bytes that fn says it has written. It returns when the queue is empty and the doorbell
// armed, when the device is reset, or with the first error. c is the caller's to reuse.
func (q *Queue) Drain(c *virtq.Chain, fn func(*virtq.Chain) (uint32, error)) error {
	for !q.Stopped() {
		q.DisableNotify()
		for more := true; more; {
			var err error
			if more, err = q.some(c, fn); err != nil {
				return err
			}
			if err := q.Interrupt(); err != nil {
				return err
			}
		}
		if !q.EnableNotify() {
			return nil
		}
	}
	return nil
}

// some handles up to a batch of chains and reports whether there may be more.
func (q *Queue) some(c *virtq.Chain, fn func(*virtq.Chain) (uint32, error)) (bool, error) {
	for range batch {
		if q.Stopped() {
			return false, nil
		}
		ok, err := q.Next(c)
		if !ok {
			return false, err
		}
		n, err := fn(c)
		if err != nil {
			return false, err
		}
		q.Release(c, n)
	}
	return true, nil
}

// serve is the queue's goroutine.
func (q *Queue) serve(dev Device) {
	for !q.Stopped() {
		if err := dev.Serve(q); err != nil {
			q.t.Fail(fmt.Errorf("queue %d: %w", q.index, err))
			return
		}
		if _, err := q.bell.Wait(); err != nil {
			return
		}
	}
}

// session is the time between DRIVER_OK and reset.
type session struct {
	queues  []*Queue
	workers sync.WaitGroup
	done    chan struct{}
	stopped atomic.Bool
}

func (s *session) start(dev Device) {
	for _, q := range s.queues {
		if q != nil {
			s.workers.Go(func() { q.serve(dev) })
		}
	}
}

// stop ends the queues' goroutines and waits for them.
func (s *session) stop() {
	s.stopped.Store(true)
	close(s.done)
	for _, q := range s.queues {
		if q != nil {
			_ = q.Kick() // fails only when closed, and then the goroutine ends too
		}
	}
	s.workers.Wait()
}
