package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// terminal is the user's terminal in raw mode. The zero value is no terminal: its
// methods do nothing.
type terminal struct {
	file    *os.File
	signals chan os.Signal // those that continue or end this process
	forget  func()         // ends what is done around stops
	over    chan struct{}  // closed by restore

	mu       sync.Mutex
	state    *term.State // what the terminal was before
	restored bool
	waiting  bool // for the foreground, see awaitFront
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// rawTerminal puts the terminal into raw mode until restore, but for the time in which this process is stopped. A job in the
// background leaves the terminal alone until it is in the foreground: the kernel would stop it (SIGTTOU), again each time it continues,
// so that it could not even be ended.
func rawTerminal(f *os.File, s *signals) (*terminal, error) {
	t := &terminal{file: f, signals: make(chan os.Signal, 4), over: make(chan struct{})}
	var err error
	if t.state, err = term.GetState(int(f.Fd())); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	signal.Notify(t.signals, syscall.SIGCONT, syscall.SIGPIPE)
	t.forget = s.aroundStop(func() func() { t.set(false); return func() {} }) // first: a stop must not leave it raw
	t.set(true)
	go t.watchJob()
	return t, nil
}

// watchJob follows the shell's job control, as far as others' signals tell of it: what is typed in raw mode is the guest's.
func (t *terminal) watchJob() {
	for sig := range t.signals {
		switch sig {
		case syscall.SIGCONT: // also after a SIGSTOP; the shell has set the terminal meanwhile
			t.set(true)
		case syscall.SIGPIPE:
			if broken(os.Stdout) || broken(os.Stderr) {
				t.set(false)
				signal.Reset(syscall.SIGPIPE) // the next write ends this process, as it does without a terminal
			}
		}
	}
}

// broken reports whether f is a pipe that nobody reads any more.
func broken(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return n == 1 && err == nil && fds[0].Revents&unix.POLLERR != 0
}

// set switches raw mode. A job in the background has it switched on once it is in the foreground, and leaves switching it off to
// the shell.
func (t *terminal) set(raw bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.restored: // for good
	case !inFront(t.file):
		if raw {
			t.awaitFront()
		}
	case raw:
		// A terminal that is gone needs no mode.
		undisturbed(func() { _, _ = term.MakeRaw(int(t.file.Fd())) })
	default:
		undisturbed(func() { _ = term.Restore(int(t.file.Fd()), t.state) })
	}
}

// awaitFront switches raw mode on as soon as this process is in the foreground. t.mu is held.
func (t *terminal) awaitFront() {
	if t.waiting {
		return
	}
	t.waiting = true
	go func() {
		for !inFront(t.file) {
			select {
			case <-t.over:
				return
			case <-time.After(backgroundInterval):
			}
		}
		t.mu.Lock()
		t.waiting = false
		t.mu.Unlock()
		t.set(true)
	}()
}

// undisturbed calls f, which changes a terminal, so that this process is not stopped for it, should it have come into the
// background just now.
func undisturbed(f func()) {
	if signal.Ignored(syscall.SIGTTOU) {
		f()
		return
	}
	signal.Ignore(syscall.SIGTTOU)
	defer signal.Reset(syscall.SIGTTOU)
	f()
}

// restore makes the terminal what it was. Further calls do nothing.
func (t *terminal) restore() {
	if t.file == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.restored {
		if inFront(t.file) {
			undisturbed(func() { _ = term.Restore(int(t.file.Fd()), t.state) })
		}
		t.restored = true
		close(t.over)
		t.forget()
		signal.Stop(t.signals)
		close(t.signals)
	}
}

// size returns the terminal's size, 24 × 80 where it has none.
func (t *terminal) size() agentproto.Winsize {
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	if err != nil || cols <= 0 || rows <= 0 {
		return agentproto.Winsize{Rows: 24, Cols: 80}
	}
	return agentproto.Winsize{Rows: uint16(min(rows, 0xffff)), Cols: uint16(min(cols, 0xffff))}
}

// watchSize calls fn after each change of the terminal's size, until the returned
// function is called.
func (t *terminal) watchSize(fn func(agentproto.Winsize)) func() {
	if t.file == nil {
		return func() {}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH, syscall.SIGCONT) // while it is stopped, the kernel tells of no change
	go func() {
		for range changed {
			fn(t.size())
		}
	}()
	return func() {
		signal.Stop(changed)
		close(changed)
	}
}
