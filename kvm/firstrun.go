package kvm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// ErrFirstRun is wrapped by the error of a VM that KVM could not prepare to run. It is of no use any
// more; another one may well be.
var ErrFirstRun = errors.New("KVM could not prepare the VM to run")

// firstRun is whether KVM has prepared a VM to run.
type firstRun struct {
	mu   sync.Mutex
	done atomic.Bool
}

// Prepare lets KVM do what it puts off until a VM's first KVM_RUN, without running the guest. Run does
// it where it was not done. The vCPU is bound, and best goes on on this thread: KVM waits for a
// grace period of the kernel when a vCPU changes its thread.
//
// Linux 6.13, and kernels that got its change, make a thread then. With a signal pending that
// fails, and some of them (6.13 itself, 6.12 before August 2025, Ubuntu's 6.8) never try again:
// each KVM_RUN of that VM returns ENOMEM. So signals are blocked meanwhile. SIGSTOP, which can't
// be, may still do it: then the error wraps ErrFirstRun.
func (c *VCPU) Prepare() error {
	if c.bound == 0 {
		return fmt.Errorf("prepare the run of vCPU %d: not bound to a thread", c.id)
	}
	first := &c.vm.first
	if first.done.Load() {
		return nil
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	if first.done.Load() {
		return nil
	}
	c.setImmediateExit(true)
	err := sys.WithoutSignals(func() error { return c.vm.kernel.enter(c) })
	c.setImmediateExit(false)
	if c.kicked.Load() { // meanwhile, or before
		c.setImmediateExit(true)
	}
	switch err {
	case syscall.EINTR, syscall.EAGAIN:
		first.done.Store(true)
		return nil
	case nil:
		return feature.Missing(fmt.Sprintf("KVM capability %v", Capability(uapi.CapImmediateExit)), "a newer kernel is needed")
	case syscall.ENOMEM:
		return fmt.Errorf("run vCPU %d: %w: %w", c.id, ErrFirstRun, err)
	}
	return fmt.Errorf("run vCPU %d: %w", c.id, err)
}
