package vmtest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
)

// Shared returns a VM of c that all tests of the binary share which ask for the same Config. The first one boots
// it, and whoever finds that it has ended boots another. It goes on when its last user has ended, for
// the next one, and ends with the process, or as soon as another VM needs its room. One that holds devices of the host or is
// to power off in order ends with its last user.
//
// Tests that share a VM see what others do to it: files, modules, settings. When one of them fails, it logs the VM's
// kernel log, of which others may have written parts.
func Shared(t testing.TB, c Config) *VM {
	t.Helper()
	if !outside(t) {
		return absentVM()
	}
	entry, first := shared.join(c)
	if first {
		entry.vm, entry.err = start(context.WithoutCancel(t.Context()), t.Name(), c)
		close(entry.ready)
	}
	<-entry.ready
	if entry.err != nil {
		shared.leave(entry)
		check(t, entry.err)
	}
	t.Cleanup(func() {
		entry.vm.report(t)
		if err := shared.leave(entry); err != nil {
			t.Errorf("vmtest: close: %v", err)
		}
	})
	return entry.vm
}

// sharedVM is a VM with several users. vm and err are set once ready is closed.
type sharedVM struct {
	key   string
	users int // guarded by the registry
	ready chan struct{}
	vm    *VM
	err   error
}

// registry knows the VMs that are shared in this process, and what this process has told its user.
type registry struct {
	mu   sync.Mutex
	vms  map[string]*sharedVM
	told map[string]bool
}

// shared lasts as long as the process: VMs in it outlive each of the tests that use them.
var shared registry

// join returns the VM of c with one user more. The first user starts it.
func (r *registry) join(c Config) (entry *sharedVM, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := fmt.Sprintf("%#v", c)
	if entry = r.vms[key]; entry != nil && !entry.ended() {
		entry.users++
		return entry, false
	}
	if r.vms == nil {
		r.vms = make(map[string]*sharedVM)
	}
	entry = &sharedVM{key: key, users: 1, ready: make(chan struct{})}
	r.vms[key] = entry
	return entry, true
}

// ended reports whether the VM is of no use any more.
func (s *sharedVM) ended() bool {
	select {
	case <-s.ready:
	default:
		return false // it is being started
	}
	if s.err != nil {
		return true
	}
	select {
	case <-s.vm.Done():
		return true
	default:
		return false
	}
}

// leave takes a user away, and ends a VM that nobody will use again.
func (r *registry) leave(s *sharedVM) error {
	r.mu.Lock()
	s.users--
	over := s.users == 0 && (s.ended() || s.vm.keeps)
	if over && r.vms[s.key] == s {
		delete(r.vms, s.key)
	}
	r.mu.Unlock()
	if over && s.err == nil {
		return s.vm.Close()
	}
	return nil
}

// endIdle ends a VM that has no user, and reports whether there was one.
func (r *registry) endIdle() bool {
	r.mu.Lock()
	var idle *sharedVM
	for key, s := range r.vms {
		if s.users == 0 {
			idle = s
			delete(r.vms, key)
			break
		}
	}
	r.mu.Unlock()
	if idle == nil {
		return false
	}
	_ = idle.vm.Close() // nobody is left who could be told
	return true
}

// notice tells the user text, the first time.
func (r *registry) notice(w io.Writer, text string) {
	if r.tell(text) {
		fmt.Fprintln(w, "vmtest:", text)
	}
}

// tell reports whether text is new.
func (r *registry) tell(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told[text] {
		return false
	}
	if r.told == nil {
		r.told = make(map[string]bool)
	}
	r.told[text] = true
	return true
}
