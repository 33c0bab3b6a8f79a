package main

import (
	"os"
	"runtime"
	"slices"
	"syscall"
)

// aroundStop makes fn run before a shell's job control stops this process (SIGTSTP), and what fn returns
// once it continues, until the returned function is called. SIGSTOP comes without notice.
func (s *signals) aroundStop(fn func() (after func())) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hook := &fn
	s.stops = append(s.stops, hook)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stops = slices.DeleteFunc(s.stops, func(h *func() func()) bool { return h == hook })
	}
}

// suspend stops this process, and returns when it continues.
func (s *signals) suspend() {
	s.mu.Lock()
	hooks := slices.Clone(s.stops)
	s.mu.Unlock()
	var after []func()
	for _, hook := range hooks {
		after = append(after, (*hook)())
	}
	// Sent to its own thread, the signal stops this goroutine before it goes on.
	runtime.LockOSThread()
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP) // it can't be refused
	runtime.UnlockOSThread()
	for _, fn := range slices.Backward(after) {
		fn()
	}
}
