package vmm

import (
	"fmt"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/virtio"
)

// addShare gives the guest a folder by its tag.
func (d *devices) addShare(v *VM, irqs interrupts, s Share) error {
	folder, err := share.New(share.Config{Path: s.Path, ReadOnly: s.ReadOnly})
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Path, err)
	}
	d.closers = append(d.closers, folder)
	dev, err := virtio.NewP9(s.Tag, folder)
	if err != nil {
		return err
	}
	return d.add(v, irqs, "9p "+s.Tag, dev)
}
