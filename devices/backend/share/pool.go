package share

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Pool bounds the descriptors that several shares of one process take together. Its methods may be called concurrently.
type Pool struct {
	open, handles       atomic.Int64
	maxOpen, maxHandles int64
}

// NewPool makes a pool of what Limits have by default for one share.
func NewPool() (*Pool, error) {
	var l Limits
	if err := l.complete(); err != nil {
		return nil, fmt.Errorf("folders: %w", err)
	}
	return &Pool{maxOpen: int64(l.Open), maxHandles: int64(l.Handles)}, nil
}

// take counts an open file.
func (p *Pool) take() error {
	if p == nil {
		return nil
	}
	if p.open.Add(1) > p.maxOpen {
		p.open.Add(-1)
		return unix.EMFILE
	}
	return nil
}

func (p *Pool) give() {
	if p != nil {
		p.open.Add(-1)
	}
}

// hold counts n descriptors that name files, which are closed for others: there is no error.
func (p *Pool) hold(n int64) {
	if p != nil {
		p.handles.Add(n)
	}
}

// full reports whether there are more of them than there should be.
func (p *Pool) full() bool { return p != nil && p.handles.Load() > p.maxHandles }
