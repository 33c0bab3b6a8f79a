package passthrough

import (
	"errors"

	"github.com/stile-vmm/stile/vfio"
	"golang.org/x/sys/unix"
)

// unmaskAfterUse has the wired interrupt unmasked each time that the guest has handled it: by the
// kernel where the device's driver can do that, else by this process. Drivers of mediated devices
// often can't (ENOTTY). The caller holds mu.
func (x *interrupts) unmaskAfterUse() error {
	err := x.f.hw.SetUnmask(x.wire.Resample())
	if !errors.Is(err, unix.ENOTTY) {
		return err
	}
	if x.byHand.CompareAndSwap(false, true) {
		go x.unmaskByHand(x.wire)
	}
	return nil
}

// unmaskByHand ends when the wire is closed.
func (x *interrupts) unmaskByHand(w Wire) {
	for w.AwaitResample() == nil {
		x.unmask()
	}
}

// beforeAccess precedes each of the guest's accesses to registers. Such drivers also forget an
// interrupt that comes while the wire is masked, so it is unmasked before the guest does what may
// cause one, and not only after it has handled the last.
func (x *interrupts) beforeAccess() {
	if x.byHand.Load() {
		x.unmask()
	}
}

func (x *interrupts) unmask() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.running || x.mode != vfio.INTx {
		return
	}
	if err := x.f.hw.UnmaskINTx(); err != nil {
		x.f.warn(err)
	}
}
