package sys

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// FD is an owned file descriptor. Methods may be called concurrently; Close must
// not race with a use of Int, because the number could be reused by then.
type FD struct {
	name string

	mu sync.Mutex
	fd int // -1 once closed
}

// NewFD takes ownership of fd. The name appears in errors ("kvm vcpu 0").
func NewFD(fd int, name string) *FD { return &FD{name: name, fd: fd} }

// Open opens path with flags (O_CLOEXEC is added). The error is an *os.PathError.
func Open(path string, flags int) (*FD, error) {
	fd, err := Retry(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return NewFD(fd, path), nil
}

// Int returns the descriptor's number, -1 once it is closed.
func (f *FD) Int() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fd
}

// Name returns the name given at creation.
func (f *FD) Name() string { return f.name }

// Close closes the descriptor. Further calls do nothing and return nil.
func (f *FD) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	return nil
}

// Retry calls fn until it returns something other than EINTR.
func Retry(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if err != unix.EINTR {
			return n, err
		}
	}
}
