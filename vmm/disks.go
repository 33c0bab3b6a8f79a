package vmm

import (
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/devices/virtio"
)

// maxDisks is how many disks a VM can have; each is a device on its bus.
const maxDisks = 16

// Disk is a disk of the guest: a virtio-blk device, in the order of Config.Disks.
type Disk struct {
	disk.Options
	Serial string // at most 20 bytes; the guest finds it in /dev/disk/by-id, or with lsblk
}

// Writes reports whether the image is changed.
func (d Disk) Writes() bool { return !d.ReadOnly && !d.COW }

func (c *Config) validateDisks(fault func(format string, args ...any)) {
	if len(c.Disks) > maxDisks {
		fault("%d disks: at most %d", len(c.Disks), maxDisks)
	}
	serials := make(map[string]bool)
	for _, d := range c.Disks {
		if err := d.Validate(); err != nil {
			fault("%v", err)
		}
		switch {
		case len(d.Serial) > virtio.MaxSerial:
			fault("disk %s: serial number %q has more than %d bytes", d.Path, d.Serial, virtio.MaxSerial)
		case d.Serial != "" && serials[d.Serial]:
			fault("disk %s: serial number %q is given twice", d.Path, d.Serial)
		}
		serials[d.Serial] = true
	}
}

// Images are open disks.
type Images []disk.Image

// OpenDisks opens and locks the disks' images. The error says all that is wrong with any of them.
func OpenDisks(disks []Disk) (_ Images, err error) {
	var open Images
	var faults []error
	for _, d := range disks {
		img, err := disk.Open(d.Options)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		open = append(open, img)
	}
	if len(faults) > 0 {
		return nil, errors.Join(append(faults, open.Close())...)
	}
	return open, nil
}

// Close closes and unlocks them.
func (i Images) Close() error {
	var errs []error
	for _, img := range i {
		errs = append(errs, img.Close())
	}
	return errors.Join(errs...)
}

// attached is a disk of the VM.
type attached struct {
	dev       *virtio.Blk
	transport *virtio.Transport
}

// addDisks gives the guest its disks.
func (d *devices) addDisks(v *VM, irqs interrupts) error {
	open, err := OpenDisks(v.cfg.Disks)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, open)
	for i, img := range open {
		dev, err := virtio.NewBlk(virtio.BlkOptions{
			Image: img, Serial: v.cfg.Disks[i].Serial, Queues: min(v.cfg.cpus(), virtio.MaxBlkQueues),
			Notice: func(text string) { v.notice(fmt.Sprintf("disk %s: %s", v.cfg.Disks[i].Path, text)) },
		})
		if err != nil {
			return err
		}
		if err := d.add(v, irqs, fmt.Sprintf("disk %d", i), dev); err != nil {
			return err
		}
		d.disks = append(d.disks, attached{dev, d.transports[len(d.transports)-1]})
	}
	return nil
}

// ResizeDisk changes the size of a disk and of its image, in bytes, and tells the guest. index is that of Config.Disks. Only
// with shrink it makes the disk smaller. It may be called while the VM runs.
func (v *VM) ResizeDisk(index int, size int64, shrink bool) error {
	if index < 0 || index >= len(v.devices.disks) {
		return fmt.Errorf("there is no disk %d: the VM has %d", index, len(v.devices.disks))
	}
	d := v.devices.disks[index]
	err := d.dev.Resize(d.transport, size, shrink)
	if err != nil {
		return fmt.Errorf("disk %s: %w", v.cfg.Disks[index].Path, err)
	}
	return nil
}

// DiskSize returns the size of a disk in bytes, 0 if there is no such disk. index is that of Config.Disks.
func (v *VM) DiskSize(index int) int64 {
	if index < 0 || index >= len(v.devices.disks) {
		return 0
	}
	return v.devices.disks[index].dev.Size()
}
