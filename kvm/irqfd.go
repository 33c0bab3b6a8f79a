package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// NoResample stands for the resample descriptor of an edge-triggered irqfd.
const NoResample = -1

// AttachIRQFD makes each signal of the eventfd trigger raise gsi, without this process.
// What is pending in trigger is raised at once. The eventfd may be closed without
// DetachIRQFD: that detaches it.
//
// For a level-triggered line, resample is a second eventfd: a signal of trigger asserts
// the line, the guest's end-of-interrupt deasserts it and signals resample; who then still
// has cause signals trigger again. For an edge it is NoResample.
//
// One eventfd can drive one GSI at a time: EBUSY otherwise.
func (vm *VM) AttachIRQFD(gsi uint32, trigger, resample int) error {
	irqfd := uapi.IRQFD{FD: uint32(trigger), GSI: gsi}
	vm.calls.add(callIRQFD)
	if resample != NoResample {
		irqfd.Flags = uapi.IRQFDResample
		irqfd.ResampleFD = uint32(resample)
	}
	if _, err := sys.IoctlPtr(vm.fd, uapi.RegisterIRQFD, &irqfd); err != nil {
		return fmt.Errorf("attach irqfd %d to GSI %d: %w", trigger, gsi, err)
	}
	return nil
}

// DetachIRQFD undoes AttachIRQFD. When it returns no injection is under way; later
// signals count up in the eventfd. After Retire it does nothing.
func (vm *VM) DetachIRQFD(gsi uint32, trigger int) error {
	if vm.retired.Load() {
		return nil
	}
	irqfd := uapi.IRQFD{FD: uint32(trigger), GSI: gsi, Flags: uapi.IRQFDDeassign}
	vm.calls.add(callIRQFD + detach)
	if _, err := sys.IoctlPtr(vm.fd, uapi.RegisterIRQFD, &irqfd); err != nil {
		return fmt.Errorf("detach irqfd %d from GSI %d: %w", trigger, gsi, err)
	}
	return nil
}
