package vmm

import (
	"fmt"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/kvm"
)

// cpu runs one vCPU. Its goroutine is the only one that touches it until it returns;
// others may only kick.
type cpu struct {
	vcpu     *kvm.VCPU
	loop     processor // vcpu, or what a test has in its place
	ports    *bus.Bus
	mem      *bus.Bus
	end      func(Result) // reports why the VM ends; the first report counts
	stop     func() bool  // whether vCPUs are to return
	reset    func() bool  // whether that is because of a reset, after which they go on
	exits    exitCounts
	delivery delivery

	stops     *stops
	stopsTold uint64 // how many the guest knows of

	work chan func() // for the vCPU's thread, which ends when it is closed
	over chan struct{}
}

// processor is what the run loop needs of a vCPU. *kvm.VCPU is one.
type processor interface {
	pendingEvents
	ID() int
	Run() (kvm.Exit, error)
	Kick() error
	MarkStopped() error
	Describe() string
}

// newCPU gives the vCPU its thread, on which it stays, through resets too: KVM waits for a grace period
// of the kernel when a vCPU changes its thread.
func (v *VM) newCPU(vcpu *kvm.VCPU) *cpu {
	c := &cpu{
		vcpu: vcpu, loop: vcpu, ports: &v.ports, mem: &v.memory, end: v.end, stop: v.halted, reset: v.resetting.Load,
		stops: v.stops,
		work:  make(chan func()), over: make(chan struct{}),
	}
	vcpu.OnSignal(func() { c.markStops(c.stops.look()) })
	go func() {
		defer close(c.over)
		vcpu.Bind()
		defer vcpu.Unbind()
		for do := range c.work {
			do()
		}
	}()
	return c
}

// prepare lets KVM make the VM ready to run.
func (c *cpu) prepare() error {
	result := make(chan error)
	c.work <- func() { result <- c.vcpu.Prepare() }
	return <-result
}

// close ends the thread and frees the vCPU. Further calls do nothing.
func (c *cpu) close() error {
	if c.work != nil {
		close(c.work)
		<-c.over
		c.work = nil
	}
	return c.vcpu.Close()
}

// exitCounts counts exits by reason. KVM's reasons are small numbers; others share the
// last place. One vCPU adds, others may read meanwhile.
type exitCounts [48]atomic.Uint64

func (e *exitCounts) add(r kvm.Reason) { e[min(int(r), len(e)-1)].Add(1) }

// run runs the guest, on the vCPU's thread, until the VM is to stop or this vCPU ends it.
func (c *cpu) run() {
	c.stops.running.Add(1)
	defer c.stops.running.Add(-1)
	for !c.stop() {
		c.stops.park()
		c.markStops(c.stops.count.Load())
		exit, err := c.loop.Run()
		if err != nil {
			// Where the guest was is all there is, if KVM does not tell what it could not reach.
			c.fail(fmt.Errorf("%w\n%s", err, c.vcpu.Describe()))
			return
		}
		c.exits.add(exit.Reason)
		if !c.handle(exit) {
			break
		}
	}
	if c.reset() {
		c.settle()
	}
}

// fail ends the VM because of the vCPU.
func (c *cpu) fail(err error) {
	c.end(Result{Reason: Failed, Detail: fmt.Sprintf("vCPU %d: %v", c.loop.ID(), err)})
}

// handle answers an exit. It returns false when the guest can't go on.
func (c *cpu) handle(exit kvm.Exit) bool {
	if c.delivery.spurious(exit, c.loop) {
		return true
	}
	switch exit.Reason {
	case kvm.ExitIO:
		c.io(exit.IO())
	case kvm.ExitMMIO:
		m := exit.MMIO()
		if m.Write {
			c.mem.Write(m.Addr, m.Data)
		} else {
			c.mem.Read(m.Addr, m.Data)
		}
	case kvm.ExitInterrupted, kvm.ExitIRQWindowOpen, kvm.ExitHLT:
	case kvm.ExitShutdown:
		c.end(Result{Reason: TripleFault, Detail: c.loop.Describe()})
		return false
	case kvm.ExitSystemEvent:
		return c.systemEvent(exit.SystemEvent())
	default:
		c.end(Result{Reason: Failed, Detail: fmt.Sprintf("vCPU %d: %v\n%s", c.loop.ID(), exit, c.loop.Describe())})
		return false
	}
	return true
}

// io performs a port access. The items of a string instruction go to the port in turn.
func (c *cpu) io(io kvm.IO) {
	for data := io.Data; len(data) >= io.Size; data = data[io.Size:] {
		if io.Out {
			c.ports.Write(uint64(io.Port), data[:io.Size])
		} else {
			c.ports.Read(uint64(io.Port), data[:io.Size])
		}
	}
}

// System events (Documentation/virt/kvm/api.rst, KVM_EXIT_SYSTEM_EVENT).
const (
	systemShutdown = 1
	systemReset    = 2
)

func (c *cpu) systemEvent(e kvm.SystemEvent) bool {
	switch e.Type {
	case systemShutdown:
		c.end(Result{Reason: PowerOff})
	case systemReset:
		c.end(Result{Reason: Reset})
	default:
		c.end(Result{Reason: Panic, Detail: fmt.Sprintf("system event %d", e.Type)})
	}
	return false
}
