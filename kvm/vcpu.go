package kvm

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// kickSignal interrupts KVM_RUN. Go's runtime has a handler for SIGURG, which it sends to
// its own threads to preempt them and for which a stray one is harmless; so no handler
// needs installing, and the host program keeps SIGUSR1 and its like. A program that asks
// os/signal for SIGURG sees the kicks, as it sees the runtime's.
const kickSignal = syscall.SIGURG

// VCPU is a virtual CPU. One goroutine uses it, between Bind and Unbind while it runs; only
// Kick may be called by others. Register access is for that goroutine, or for any while
// nothing runs.
type VCPU struct {
	id   int
	vm   *VM
	fd   *sys.FD
	page *sys.Mapping // struct kvm_run and what its offsets point to
	run  *uapi.Run    // start of page
	pid  int

	described bool   // SetCPUID has succeeded
	signaled  func() // see OnSignal; nil for nothing

	bound  int          // thread of Bind, 0 outside
	thread atomic.Int64 // thread that is in Run, 0 outside
	kicked atomic.Bool  // Kick was called and Run has not reported it

	mu     sync.Mutex // Kick against Close
	closed bool       // page is unmapped
}

// ErrNoCPUID is wrapped by the error of a call that needs SetCPUID first.
var ErrNoCPUID = errors.New("the vCPU has no CPUID: call SetCPUID first")

// CreateVCPU makes vCPU id, which is also its APIC ID. Its state is that of a CPU after
// reset; with an irqchip all but vCPU 0 wait for INIT and SIPI. SetCPUID comes next. The
// caller closes the vCPU before the VM.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	n, err := vm.createVCPU(id)
	if err != nil {
		return nil, fmt.Errorf("create vCPU %d: %w", id, err)
	}
	fd := sys.NewFD(n, fmt.Sprintf("kvm vcpu %d", id))
	page, err := sys.Map(fd, 0, vm.pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fd.Close()
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	return &VCPU{id: id, vm: vm, fd: fd, page: page, run: runPage(page), pid: os.Getpid()}, nil
}

// ID returns the number given at creation.
func (c *VCPU) ID() int { return c.id }

// Bind locks the calling goroutine to its thread and makes it the vCPU's. KVM expects that
// a vCPU stays with one thread; another costs time on each change.
func (c *VCPU) Bind() {
	runtime.LockOSThread()
	c.bound = syscall.Gettid()
}

// Unbind undoes Bind, on the same goroutine.
func (c *VCPU) Unbind() {
	c.bound = 0
	runtime.UnlockOSThread()
}

// Run runs the guest until something needs attention. Before the call the answer to the
// last exit must stand in its Data (IN, MMIO read). The Exit is valid until the next call.
//
// After Kick the exit is ExitInterrupted; an access that was answered is completed before
// that. Signals that are no kick, such as Go's own, do not end Run. A vCPU that waits for
// INIT and SIPI, or halts with an irqchip, waits inside Run.
//
// EFAULT means that the guest touched a slot whose host memory is gone, EHWPOISON that this
// memory is broken. Since Linux 6.8 KVM can say where, and does for some causes.
func (c *VCPU) Run() (Exit, error) {
	if c.bound == 0 {
		return Exit{}, fmt.Errorf("run vCPU %d: not bound to a thread", c.id)
	}
	if err := c.Prepare(); err != nil {
		return Exit{}, err
	}
	c.thread.Store(int64(c.bound))
	defer c.thread.Store(0)
	for {
		err := c.vm.kernel.enter(c)
		switch err {
		case nil:
			return Exit{Reason: Reason(c.run.ExitReason), vcpu: c}, nil
		case syscall.EINTR, syscall.EAGAIN:
			// EAGAIN: the vCPU got its INIT or SIPI and starts. exit_reason is stale in
			// both cases.
			if c.signaled != nil {
				c.signaled()
			}
			if c.takeKick() {
				return Exit{Reason: ExitInterrupted, vcpu: c}, nil
			}
		default:
			return Exit{}, fmt.Errorf("run vCPU %d: %w%s", c.id, err, c.faultAddress())
		}
	}
}

// OnSignal makes Run call fn whenever a signal has interrupted KVM_RUN, on the vCPU's thread and
// before the guest goes on. A stop of the process (SIGSTOP, a frozen cgroup, the host's suspend)
// interrupts it too: fn runs once the process continues. It is to be set while nothing runs.
func (c *VCPU) OnSignal(fn func()) { c.signaled = fn }

// takeKick reports whether there was a kick. The order matters: Kick sets its flag, then
// immediate_exit, so a kick that comes between the two steps here is either reported now
// or leaves both set for the next KVM_RUN.
func (c *VCPU) takeKick() bool {
	c.setImmediateExit(false)
	return c.kicked.Swap(false)
}

// Kick makes the Run under way, or the next one, return ExitInterrupted. Kicks that come
// before Run has reported one count as one. It may be called from any goroutine at any
// time; after Close it does nothing.
func (c *VCPU) Kick() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.kicked.Store(true)
	c.setImmediateExit(true)
	thread := c.thread.Load()
	if thread == 0 {
		return nil // not in Run: immediate_exit ends the next KVM_RUN at its start
	}
	heedKicks()
	err := syscall.Tgkill(c.pid, int(thread), kickSignal)
	if err != nil && !errors.Is(err, syscall.ESRCH) { // the thread left Run and ended
		return fmt.Errorf("kick vCPU %d: %w", c.id, err)
	}
	return nil
}

// heedKicks has the runtime handle kickSignal again where the program ignores it, as one that calls
// signal.Ignore without arguments does: the kernel drops an ignored signal, and KVM_RUN would not
// return. The handler stays when the channel is stopped.
func heedKicks() {
	if !signal.Ignored(kickSignal) {
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, kickSignal)
	signal.Stop(c)
}

// Close frees the vCPU. Run must have returned. Further calls return the first result.
func (c *VCPU) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return errors.Join(c.page.Close(), c.fd.Close())
}
