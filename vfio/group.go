package vfio

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// group is an open group. It is opened once for all its devices: the kernel lets a group be
// open only once.
type group struct {
	node    Node // of the first device
	file    file
	options Options
	users   int // devices
	known   bool
	joined  bool
}

func (n Node) groupName() string {
	return fmt.Sprintf("group %d of %s", n.Group, n.Name)
}

// openFor opens n's group and checks that it may be used.
func openFor(k kernel, o Options, n Node, c *counter) (*group, error) {
	f, err := openCounted(k, n.groupPath(), c)
	if err != nil {
		return nil, o.describe(n, openGroup.fail(n.groupName(), err))
	}
	g := &group{node: n, file: f, options: o}
	if err := g.viable(); err != nil {
		return nil, errors.Join(o.describe(n, err), f.Close())
	}
	return g, nil
}

func (g *group) viable() error {
	s := vfio.GroupStatus{}
	s.ArgSize = uint32(len(bytesOf(&s)))
	if _, err := g.file.controlBytes(callGroupStatus, bytesOf(&s)); err != nil {
		return callGroupStatus.fail(g.node.groupName(), err)
	}
	if s.Flags&vfio.GroupViable == 0 {
		return fmt.Errorf("%s is not viable: a driver of the host, or another program, has the DMA of one of its members. "+
			"Everything in /sys/kernel/iommu_groups/%d/devices must have a VFIO driver or none", g.node.groupName(), g.node.Group)
	}
	return nil
}

// join puts the group into a container.
func (g *group) join(container file) error {
	fd := int32(container.Int())
	if _, err := retryAttach(func() (int, error) { return g.file.controlBytes(callSetContainer, bytesOf(&fd)) }); err != nil {
		return g.options.describe(g.node, callSetContainer.fail(g.node.groupName(), err))
	}
	g.joined = true
	return nil
}

// announce makes the group known to KVM.
func (g *group) announce() error {
	if err := g.options.addToKVM(g.file); err != nil {
		return fmt.Errorf("%s: %w", g.node.groupName(), err)
	}
	g.known = true
	return nil
}

// openDevice opens n's device, whose ioctls go to c.
func (g *group) openDevice(k kernel, n Node, c *counter) (file, error) {
	name := n.Name
	if n.Token != "" {
		name += " vf_token=" + n.Token
	}
	fd, err := retryBusy(func() (int, error) { return g.file.controlBytes(callGetDeviceFD, append([]byte(name), 0)) })
	if err != nil {
		return nil, g.options.describe(n, callGetDeviceFD.fail(n.Name+" in "+filepath.Base(n.groupPath()), err))
	}
	g.users++
	return counted{k.adopt(fd, "VFIO device "+n.Name), c}, nil
}

// close undoes what was done, in reverse.
func (g *group) close() error {
	var errs []error
	if g.known {
		errs = append(errs, g.options.removeFromKVM(g.file))
	}
	if g.joined {
		// EINVAL: the host took the group's last device back, and the kernel was faster.
		if _, err := g.file.control(callUnsetContainer, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, callUnsetContainer.fail(g.node.groupName(), err))
		}
	}
	return errors.Join(append(errs, g.file.Close())...)
}
