package vmm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/kvm"
)

// interrupts hands out the VM's interrupts: wired lines of the I/O APIC, and
// message-signalled vectors whose eventfd is a KVM irqfd.
type interrupts struct{ vm *kvm.VM }

// Line implements irq.Allocator.
func (i interrupts) Line(gsi uint32) (irq.Line, error) {
	if gsi >= layout.GSIPins {
		return nil, fmt.Errorf("GSI %d is not a pin of the I/O APIC", gsi)
	}
	return line{i.vm, gsi}, nil
}

type line struct {
	vm  *kvm.VM
	gsi uint32
}

func (l line) Set(level bool) error { return l.vm.IRQLine(l.gsi, level) }

// NewVector implements irq.Allocator.
func (i interrupts) NewVector() (irq.Vector, error) {
	event, err := sys.NewEventFD()
	if err != nil {
		return nil, err
	}
	gsi, err := i.vm.Routing().AllocGSI()
	if err != nil {
		event.Close()
		return nil, err
	}
	return &vector{vm: i.vm, gsi: gsi, event: event}, nil
}

// vector is one message-signalled interrupt. Its irqfd is attached while it is routed;
// the GSI keeps its message meanwhile, so that unmasking an unchanged vector costs one
// ioctl.
type vector struct {
	vm    *kvm.VM
	gsi   uint32
	event *sys.EventFD

	mu       sync.Mutex
	message  irq.Message
	set      bool // message is in the routing table
	attached bool
	closed   bool
}

func (v *vector) Route(m irq.Message) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errors.New("route: vector is closed")
	}
	if !v.set || v.message != m {
		routing := v.vm.Routing()
		if err := routing.SetMSI(v.gsi, kvm.MSI{Address: m.Address, Data: m.Data}); err != nil {
			return err
		}
		if err := routing.Commit(); err != nil {
			return err
		}
		v.message, v.set = m, true
	}
	if v.attached {
		return nil
	}
	if err := v.vm.AttachIRQFD(v.gsi, v.event.Int(), kvm.NoResample); err != nil {
		return err
	}
	v.attached = true
	return nil
}

func (v *vector) Unroute() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.detach()
}

func (v *vector) detach() error {
	if !v.attached {
		return nil
	}
	v.attached = false
	return v.vm.DetachIRQFD(v.gsi, v.event.Int())
}

func (v *vector) Trigger() error { return v.event.Signal() }
func (v *vector) Pending() bool  { return v.event.TryWait() > 0 }
func (v *vector) EventFD() int   { return v.event.Int() }

func (v *vector) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	err := v.detach()
	v.vm.Routing().FreeGSI(v.gsi) // valid with the next Commit: the irqfd is gone already
	return errors.Join(err, v.event.Close())
}
