package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// signals decides what signals sent to stile do: the first one goes to the guest's
// command, or ends the boot; the second ends the VM at once. SIGTSTP stops this process.
type signals struct {
	ch     chan os.Signal
	kill   context.CancelFunc // ends what boot and command return
	killed context.Context

	mu       sync.Mutex
	process  signaled // nil while nothing runs
	starting bool     // a process is about to be there: signals wait for it
	waiting  []syscall.Signal
	first    syscall.Signal           // what ended the run, or may have
	stops    []*func() (after func()) // see aroundStop
}

// signaled is a command to which signals go.
type signaled interface{ Signal(syscall.Signal) error }

// termGrace is how long a command may go on after SIGTERM, SIGHUP or SIGQUIT: who sends
// those expects an end. SIGINT has no such limit, a shell ignores it.
const termGrace = 10 * time.Second

func watchSignals() *signals {
	s := &signals{ch: make(chan os.Signal, 4)}
	s.killed, s.kill = context.WithCancel(context.Background())
	signal.Notify(s.ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGTSTP) { // who started this process wants no stops
		signal.Notify(s.ch, syscall.SIGTSTP)
	}
	go s.watch()
	return s
}

func (s *signals) watch() {
	for received := range s.ch {
		sig, ok := received.(syscall.Signal)
		if !ok {
			continue
		}
		if sig == syscall.SIGTSTP {
			s.suspend()
			continue
		}
		if !s.pass(sig) {
			s.kill()
			continue
		}
		if sig != syscall.SIGINT {
			time.AfterFunc(termGrace, s.kill)
		}
	}
}

// pass gives the first signal to the command, and reports false where that can't be.
func (s *signals) pass(sig syscall.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.first != 0
	s.first = sig
	switch {
	case again:
		return false
	case s.process != nil:
		_ = s.process.Signal(sig) // a command that has ended gets none
		return true
	case s.starting:
		s.waiting = append(s.waiting, sig)
		return true
	}
	return false
}

func (s *signals) stop() {
	signal.Stop(s.ch)
	close(s.ch)
	s.kill()
}

// boot returns a context for the boot, ended by a signal.
func (s *signals) boot() context.Context { return s.killed }

// command returns a context for the command, ended by a second signal or a timeout.
func (s *signals) command(timeout time.Duration) (context.Context, context.CancelFunc) {
	s.expect()
	return s.limited(timeout)
}

// expect keeps signals for a command that is about to be started.
func (s *signals) expect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = true
}

// limited returns a context that a signal or a timeout ends.
func (s *signals) limited(timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(s.killed)
	}
	return context.WithTimeoutCause(s.killed, timeout, errTimeout)
}

// forward passes signals to p from now on, until the returned function is called.
func (s *signals) forward(p signaled) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.starting = p, false
	for _, sig := range s.waiting {
		_ = p.Signal(sig)
	}
	s.waiting = nil
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.process = nil
	}
}

// status returns the exit status for a run that a signal ended, 0 if none did.
func (s *signals) status() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 || s.killed.Err() == nil {
		return 0
	}
	return 128 + int(s.first)
}
