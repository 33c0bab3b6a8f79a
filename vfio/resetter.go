package vfio

import "encoding/binary"

// Resetter resets devices of a Space, each by the means that leaves least of its state: a function-level reset, else one of its bus or
// slot, if all that is on it is the Space's, and only else its way through power state D3, which keeps what the device keeps there.
// What a bus reset has reset along with another device is not reset again. The zero value serves for one round of resets.
type Resetter struct {
	// Opened says that the devices have just been opened, when the kernel resets each by the means that it has of its own.
	Opened bool

	done map[string]bool // PCI addresses
}

// Reset resets d, unless it has been. The error wraps feature.ErrNotSupported where nothing resets it.
func (r *Resetter) Reset(d *Device) error {
	if r.done[d.node.Address] {
		return nil
	}
	if d.canReset && !d.byPower {
		return r.alone(d)
	}
	affected, err := d.HotReset()
	if err != nil && d.canReset {
		return r.alone(d)
	}
	for _, a := range affected {
		r.note(a.Address)
	}
	return err
}

func (r *Resetter) alone(d *Device) error {
	if r.Opened {
		return nil
	}
	if err := d.Reset(); err != nil {
		return err
	}
	r.note(d.node.Address)
	return nil
}

func (r *Resetter) note(address string) {
	if address == "" {
		return
	}
	if r.done == nil {
		r.done = make(map[string]bool)
	}
	r.done[address] = true
}

// Needed tells whether Reset does anything for d.
func (r *Resetter) Needed(d *Device) bool {
	return !r.done[d.node.Address] && !(r.Opened && d.canReset && !d.byPower)
}

// Registers of config space and of capabilities (linux/pci_regs.h).
const (
	regStatus     = 0x06
	regCapPointer = 0x34
	hasList       = 1 << 4
	capPM         = 0x01
	capExpress    = 0x10
	capAF         = 0x13
	pmControl     = 4
	noSoftReset   = 1 << 3
	expressCap    = 4
	expressFLR    = 1 << 28
	afCap         = 3
	afFLR         = 3 // with FLR and with Transactions Pending
)

// powerOnly reports whether the one reset that a function has of its own is through power state D3: it has no function-level reset,
// and loses its state on the way back to D0 (PCI PM 1.2, 5.4.1).
func powerOnly(cfg []byte) bool {
	if len(cfg) < 0x40 || binary.LittleEndian.Uint16(cfg[regStatus:])&hasList == 0 {
		return false
	}
	power := false
	at := int(cfg[regCapPointer] &^ 3)
	for range 48 { // as many as there is room for: a list may come back to itself
		if at < 0x40 || at+8 > len(cfg) {
			break
		}
		switch cfg[at] {
		case capPM:
			power = cfg[at+pmControl]&noSoftReset == 0
		case capExpress:
			if binary.LittleEndian.Uint32(cfg[at+expressCap:])&expressFLR != 0 {
				return false
			}
		case capAF:
			if cfg[at+afCap]&afFLR == afFLR {
				return false
			}
		}
		at = int(cfg[at+1] &^ 3)
	}
	return power
}

// readPowerOnly asks the device.
func (d *Device) readPowerOnly() error {
	cfg := make([]byte, min(d.Config().Size(), 256))
	if _, err := d.Config().ReadAt(cfg, 0); err != nil {
		return err
	}
	d.byPower = powerOnly(cfg)
	return nil
}
