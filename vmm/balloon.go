package vmm

import (
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/devices/virtio"
)

// ErrBalloonPinned says why a VM with devices of the host has no balloon.
var ErrBalloonPinned = fmt.Errorf("%w: a balloon and devices of the host exclude each other: all of the guest's memory is pinned for "+
	"the devices' DMA, and a device would go on to reach pages that were given back", ErrConfig)

func (c *Config) validateBalloon() error {
	if c.Balloon && len(c.Devices) > 0 {
		return ErrBalloonPinned
	}
	return nil
}

// addBalloon gives the guest its balloon.
func (d *devices) addBalloon(v *VM, irqs interrupts) error {
	if !v.cfg.Balloon {
		return nil
	}
	d.balloon = virtio.NewBalloon(v.mem, v.mem.Size())
	return d.add(v, irqs, "balloon", d.balloon)
}

// SetBalloon asks the guest to give up bytes of its memory, and to take back what it has given beyond that. It takes the guest
// a moment; Balloon tells how far it is.
func (v *VM) SetBalloon(bytes uint64) error {
	b := v.devices.balloon
	switch {
	case b == nil:
		return errors.New("the VM has no balloon: it takes run --balloon")
	case bytes > v.mem.Size():
		return fmt.Errorf("balloon: the guest can't give %v, it has %v", Bytes(bytes), Bytes(v.mem.Size()))
	case !b.Active():
		return errors.New("balloon: the guest's kernel has not loaded a driver for it (virtio_balloon)")
	}
	return b.SetTarget(bytes)
}

// Balloon returns the balloon's state, and false if the VM has none.
func (v *VM) Balloon() (virtio.BalloonState, bool) {
	if v.devices.balloon == nil {
		return virtio.BalloonState{}, false
	}
	return v.devices.balloon.State(), true
}
