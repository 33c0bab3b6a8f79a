package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// EventFD is a kernel event counter, used as interrupt trigger (irqfd) and as
// doorbell (ioeventfd). All methods may be called concurrently.
//
// Wait blocks its thread in the kernel and does not go through the runtime's poller: the
// waiter runs as soon as the kernel wakes it, also where vCPUs keep every processor of the
// Go scheduler busy.
type EventFD struct {
	fd     int
	closed atomic.Bool
	users  sync.RWMutex // held for reading while waiting; guards the descriptor's end
	once   sync.Once
	err    error
}

// NewEventFD makes an event counter with the value 0.
func NewEventFD() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &EventFD{fd: fd}, nil
}

// Int returns the descriptor's number. It is valid until Close.
func (e *EventFD) Int() int { return e.fd }

// Signal adds 1 to the counter. A full counter is not an error: the event is pending
// anyway. After Close it returns os.ErrClosed.
func (e *EventFD) Signal() error {
	if e.closed.Load() {
		return os.ErrClosed
	}
	return e.signal()
}

func (e *EventFD) signal() error {
	var one = [8]byte{1} // little-endian, as all that KVM on x86 is
	_, err := Retry(func() (int, error) { return unix.Write(e.fd, one[:]) })
	if err != nil && err != unix.EAGAIN {
		return fmt.Errorf("signal eventfd: %w", err)
	}
	return nil
}

// Wait blocks until the counter is not 0, resets it and returns its value. Close makes it
// return os.ErrClosed.
func (e *EventFD) Wait() (uint64, error) {
	e.users.RLock()
	defer e.users.RUnlock()
	for !e.closed.Load() {
		if err := e.poll(); err != nil {
			return 0, err
		}
		if e.closed.Load() {
			break // the signal is for every waiter: leave it
		}
		if n := e.TryWait(); n > 0 {
			return n, nil
		}
	}
	return 0, os.ErrClosed
}

func (e *EventFD) poll() error {
	fds := [1]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}
	if _, err := Retry(func() (int, error) { return unix.Poll(fds[:], -1) }); err != nil {
		return fmt.Errorf("wait for eventfd: %w", err)
	}
	return nil
}

// TryWait resets the counter and returns its value, 0 if nothing was signalled.
func (e *EventFD) TryWait() uint64 {
	var buf [8]byte
	n, _ := Retry(func() (int, error) { return unix.Read(e.fd, buf[:]) })
	if n != len(buf) {
		return 0
	}
	return binary.NativeEndian.Uint64(buf[:])
}

// Close ends Waits under way, waits until they have returned, and closes the descriptor.
// Further calls return the first result.
func (e *EventFD) Close() error {
	e.once.Do(func() {
		e.closed.Store(true)
		e.err = e.signal()
		e.users.Lock()
		defer e.users.Unlock()
		if err := unix.Close(e.fd); err != nil {
			e.err = fmt.Errorf("close eventfd: %w", err)
		}
	})
	return e.err
}
