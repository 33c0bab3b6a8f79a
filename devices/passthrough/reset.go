package passthrough

import "errors"

// A reset of the guest's machine: Silence, then the reset of the root bus, which takes the BARs
// from the guest, then one of the Hardware by its owner, then Revive. No vCPU is running.

// Silence ends the device's interrupts and its DMA.
func (f *Function) Silence() error {
	return errors.Join(f.interrupts.silence(), f.writeCommand(0))
}

// Revive makes the device, which was reset, ready for the guest's next boot, with the interrupt
// that a device begins with.
func (f *Function) Revive() error {
	if err := f.sync(); err != nil {
		return err
	}
	f.interrupts.revive()
	return nil
}
