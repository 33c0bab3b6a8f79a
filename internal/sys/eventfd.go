package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// EventFD is a kernel event counter, used as interrupt trigger (irqfd) and as
// doorbell (ioeventfd). All methods may be called concurrently; Wait returns
// os.ErrClosed once Close is called.
type EventFD struct {
	fd   int
	file *os.File // non-blocking, so that Wait is served by the runtime's poller
	once sync.Once
	err  error
}

// NewEventFD makes an event counter with the value 0.
func NewEventFD() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &EventFD{fd: fd, file: os.NewFile(uintptr(fd), "eventfd")}, nil
}

// Int returns the descriptor's number. It is valid until Close.
func (e *EventFD) Int() int { return e.fd }

// Signal adds 1 to the counter. A full counter is not an error: the event is pending anyway.
func (e *EventFD) Signal() error {
	var buf [8]byte
	binary.NativeEndian.PutUint64(buf[:], 1)
	_, err := Retry(func() (int, error) { return unix.Write(e.fd, buf[:]) })
	if err != nil && err != unix.EAGAIN {
		return fmt.Errorf("signal eventfd: %w", err)
	}
	return nil
}

// Wait blocks until the counter is not 0, resets it and returns its value.
func (e *EventFD) Wait() (uint64, error) {
	var buf [8]byte
	if _, err := e.file.Read(buf[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(buf[:]), nil
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

// Close closes the descriptor and ends a Wait under way. Further calls return the first result.
func (e *EventFD) Close() error {
	e.once.Do(func() { e.err = e.file.Close() })
	return e.err
}
