package vmm

import (
	"errors"
	"fmt"
	"slices"
	"time"

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
	if d.pool == nil {
		pool, err := share.NewPool()
		if err != nil {
			return err
		}
		d.pool = pool
	}
	shared, err := share.New(share.Config{
		Path: s.Path, ReadOnly: s.ReadOnly, Owner: s.Owner, Limits: share.Limits{Nodes: int(max(v.cfg.Memory/guestBytesPerNode, minNodes))}, Pool: d.pool,
	})
	if err != nil {
		return err
	}
	dev, err := virtio.NewP9(s.Tag, shared)
	if err == nil {
		err = d.add(v, irqs, "9p "+s.Tag, dev)
	}
	if err != nil {
		return errors.Join(err, shared.Close())
	}
	d.folders = append(d.folders, folder{
		share: shared, transport: d.transports[len(d.transports)-1], patience: folderPatience,
		notice: func() { v.notice(fmt.Sprintf("the folder %s does not answer: the VM ends without it", s.Path)) },
	})
	return nil
}

// folderPatience is how long the end of a VM waits for what a folder is asked for. A network's file system, or one of FUSE, may hold it
// up for ever.
const folderPatience = 5 * time.Second

// folder is a shared folder with its device.
type folder struct {
	share     *share.Share
	transport *virtio.Transport
	patience  time.Duration
	notice    func()
}

// close frees the folder. One that does not answer is left to itself, with what it uses.
func (f *folder) close(d *devices) error {
	done, err := f.transport.CloseWithin(f.patience)
	if done == nil {
		return errors.Join(err, f.share.Close())
	}
	d.left = append(d.left, done)
	d.leftTransports = append(d.leftTransports, f.transport)
	f.notice()
	return nil
}

// isLeft tells the devices of folders that do not answer.
func (d *devices) isLeft(t *virtio.Transport) bool { return slices.Contains(d.leftTransports, t) }

// freeMemory frees the guest's memory, once no folder that was left uses it any more.
func (v *VM) freeMemory() error {
	if v.devices == nil || len(v.devices.left) == 0 {
		return v.mem.Close()
	}
	go func() {
		for _, done := range v.devices.left {
			<-done
		}
		_ = v.mem.Close() // there is nobody left to be told
	}()
	return nil
}
