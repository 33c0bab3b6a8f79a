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
// message-signalled vectors.
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

// vector is one message-signalled interrupt. It is sent by a call of KVM, unless somebody asks for
// the descriptor: then it has a route in KVM's table and, while it is routed, an irqfd. Both take a
// grace period of the kernel to set, for which a guest that boots would wait. The GSI keeps its
// message while the irqfd is detached, so that unmasking an unchanged vector costs one ioctl.
type vector struct {
	vm    *kvm.VM
	gsi   uint32
	event *sys.EventFD

	mu       sync.Mutex
	message  irq.Message // while routed
	routed   bool
	wired    bool        // the descriptor is somebody's
	entry    irq.Message // in the routing table, if set
	set      bool
	attached bool
	closed   bool
}

func (v *vector) Route(m irq.Message) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errors.New("route: vector is closed")
	}
	if v.wired {
		if err := v.attach(m); err != nil {
			return err
		}
	}
	v.message, v.routed = m, true
	if !v.wired && v.event.TryWait() > 0 {
		return v.send()
	}
	return nil
}

// attach makes signals of the descriptor send m.
func (v *vector) attach(m irq.Message) error {
	if !v.set || v.entry != m {
		routing := v.vm.Routing()
		if err := routing.SetMSI(v.gsi, kvm.MSI{Address: m.Address, Data: m.Data}); err != nil {
			return err
		}
		if err := routing.Commit(); err != nil {
			return err
		}
		v.entry, v.set = m, true
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

// send sends the message. That no CPU of the guest is meant by it is the guest's business.
func (v *vector) send() error {
	_, err := v.vm.SignalMSI(kvm.MSI{Address: v.message.Address, Data: v.message.Data})
	return err
}

func (v *vector) Unroute() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.routed = false
	return v.detach()
}

func (v *vector) detach() error {
	if !v.attached {
		return nil
	}
	v.attached = false
	return v.vm.DetachIRQFD(v.gsi, v.event.Int())
}

func (v *vector) Trigger() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.routed && !v.wired && !v.closed {
		return v.send()
	}
	return v.event.Signal()
}

func (v *vector) Pending() bool { return v.event.TryWait() > 0 }

func (v *vector) EventFD() (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return -1, errors.New("vector is closed")
	}
	if v.routed && !v.wired {
		if err := v.attach(v.message); err != nil {
			return -1, err
		}
	}
	v.wired = true
	return v.event.Int(), nil
}

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
