package vmm

import (
	"sync/atomic"

	"github.com/stile-vmm/stile/kvm"
)

// maxRepeats bounds how often in a row KVM is asked again about the same instruction.
const maxRepeats = 4

// pendingEvents is the state that tells what a vCPU was about when KVM gave up.
type pendingEvents interface {
	Regs() (*kvm.Regs, error)
	Events() (*kvm.VCPUEvents, error)
}

// delivery tells spurious errors in the delivery of an event from true ones.
//
// KVM for AMD from 6.14 on refuses to emulate an access when EXITINTINFO has a type, without a look
// at its valid bit (svm_check_emulate_instruction). QEMU's emulated SVM leaves there the type of the
// last exception or NMI that the guest has taken since it was entered. The access is emulated when
// the guest is run again. A true error leaves the event with KVM, which injects it again and fails
// again.
type delivery struct {
	last    kvm.Regs // of the last such error
	row     int      // how often it came in a row, with nothing else between
	repeats atomic.Uint64
}

// spurious reports whether exit is such an error and the guest is to be run again.
func (d *delivery) spurious(exit kvm.Exit, v pendingEvents) bool {
	if !exit.Delivery() {
		d.row = 0
		return false
	}
	events, err := v.Events()
	if err != nil || events.E.Inject != 0 || events.I.Inject != 0 || events.N.Inject != 0 {
		return false
	}
	// KVM doesn't tell of INT n, INT3 and INTO that are to be delivered again. These come back with
	// the same registers, as the guest has executed nothing.
	regs, err := v.Regs()
	if err != nil {
		return false
	}
	if *regs != d.last {
		d.last, d.row = *regs, 0
	}
	if d.row == maxRepeats {
		return false
	}
	d.row++
	d.repeats.Add(1)
	return true
}
