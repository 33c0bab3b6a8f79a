// Package feature holds the error and the cache that probes of host features share.
//
// A probe tries the thing instead of comparing kernel versions. Its result reads: nil,
// available; an error that wraps ErrNotSupported, absent; any other error, inconclusive
// (no permission, out of memory).
package feature

import (
	"errors"
	"fmt"
	"sync"
)

// ErrNotSupported is wrapped by every error that says a host lacks something.
var ErrNotSupported = errors.New("not supported")

// Missing returns an error that wraps ErrNotSupported. what names the missing thing as
// its own documentation does ("KVM_CAP_IRQFD_RESAMPLE"); reason, if not empty, tells
// what it means or how to get it.
func Missing(what, reason string) error {
	if reason == "" {
		return fmt.Errorf("%s: %w", what, ErrNotSupported)
	}
	return fmt.Errorf("%s: %w: %s", what, ErrNotSupported, reason)
}

// Probe runs a check once and keeps its result. The zero value is not usable, see New.
// Methods may be called concurrently.
type Probe struct {
	mu    sync.Mutex
	check func() error
	done  bool
	err   error
}

// New returns a probe of check, which is not called yet.
func New(check func() error) *Probe { return &Probe{check: check} }

// Err returns the check's result. An inconclusive one is not kept: the next call
// checks again.
func (p *Probe) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return p.err
	}
	p.err = p.check()
	p.done = p.err == nil || errors.Is(p.err, ErrNotSupported)
	return p.err
}
