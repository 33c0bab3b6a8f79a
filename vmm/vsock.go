package vmm

import (
	"net"

	"github.com/stile-vmm/stile/devices/backend/hostsock"
	"github.com/stile-vmm/stile/devices/backend/vhost"
	"github.com/stile-vmm/stile/devices/virtio"
)

// Vsock is a virtio socket device. Package hostsock tells how the host speaks with the guest.
type Vsock struct {
	CID  uint64 // the guest's context ID, virtio.MinCID to MaxCID
	Path string // of the UNIX socket for connections to the guest; with _PORT behind it, of those for connections to the host
	// Dial connects to a port of the host instead of by Path, if not nil.
	Dial func(port uint32) (*net.UnixConn, error) `json:"-"`
	// Host joins the guest to the host's AF_VSOCK instead, by /dev/vhost-vsock. There is no Path then, and a CID of 0
	// stands for one that is free.
	Host bool
}

func (c *Config) validateVsock(fault func(format string, args ...any)) {
	switch {
	case c.Vsock == nil:
	case c.Vsock.Host && c.Vsock.Path != "":
		fault("vsock: the host's AF_VSOCK has no path, and %s was given", c.Vsock.Path)
	case c.Vsock.Host && c.Vsock.CID == 0: // one that is free
	case c.Vsock.CID < virtio.MinCID || c.Vsock.CID > virtio.MaxCID:
		fault("vsock: context ID %d: must be %d to %d", c.Vsock.CID, virtio.MinCID, uint32(virtio.MaxCID))
	case c.Vsock.Path == "" && !c.Vsock.Host:
		fault("vsock: no path for its socket given")
	}
}

// addVsock gives the guest its socket device.
func (d *devices) addVsock(v *VM, irqs interrupts) error {
	if v.cfg.Vsock == nil {
		return nil
	}
	if v.cfg.Vsock.Host {
		return d.addHostVsock(v, irqs)
	}
	host, err := hostsock.Listen(v.cfg.Vsock.Path)
	if err != nil {
		return err
	}
	dial := host.Dial
	if v.cfg.Vsock.Dial != nil {
		dial = v.cfg.Vsock.Dial
	}
	dev := virtio.NewVsock(v.cfg.Vsock.CID, func(port uint32) (virtio.VsockStream, error) {
		conn, err := dial(port)
		if err != nil {
			return nil, err
		}
		return conn, nil
	})
	d.closers = append(d.closers, host, dev)
	if err := d.add(v, irqs, "vsock", dev); err != nil {
		return err
	}
	host.Serve(func(port uint32, conn *net.UnixConn, opened func(uint32) error) error {
		return dev.Connect(port, conn, opened)
	})
	return nil
}

// addHostVsock gives the guest a socket device that the host's kernel serves.
func (d *devices) addHostVsock(v *VM, irqs interrupts) error {
	kernel, err := vhost.OpenVsock(v.cfg.Vsock.CID)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, kernel)
	dev, err := virtio.NewHostVsock(kernel, v.mem)
	if err != nil {
		return err
	}
	d.cid = kernel.CID()
	return d.add(v, irqs, "vsock", dev)
}

// VsockCID returns the guest's context ID in the host's AF_VSOCK, 0 if it is not there.
func (v *VM) VsockCID() uint64 { return v.devices.cid }
