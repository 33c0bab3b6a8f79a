package vmm

import (
	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/virtio"
)

// Linux spends about this much of its memory on each file that it knows of a share, so a
// guest that knows more than this allows is none.
const (
	guestBytesPerNode = 2048 // bytes
	minNodes          = 1 << 16
)

// addShare gives the guest a folder by its tag.
func (d *devices) addShare(v *VM, irqs interrupts, s Share) error {
	folder, err := share.New(share.Config{
		Path: s.Path, ReadOnly: s.ReadOnly, Owner: s.Owner, Limits: share.Limits{Nodes: int(max(v.cfg.Memory/guestBytesPerNode, minNodes))},
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, folder)
	dev, err := virtio.NewP9(s.Tag, folder)
	if err != nil {
		return err
	}
	return d.add(v, irqs, "9p "+s.Tag, dev)
}
