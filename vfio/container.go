package vfio

import (
	"errors"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// container is the backend of groups and type1v2. Its maps live from the first group's entry
// to the last one's exit.
type container struct {
	kernel  kernel
	options Options
	counter *counter
	file    file
	groups  map[int]*group
	// noIOMMU: the groups have none. They do not mix with others.
	noIOMMU bool
}

func newContainer(k kernel, o Options, c *counter) (*container, error) {
	f, err := openVersionedContainer(k, c)
	if err != nil {
		return nil, err
	}
	return &container{kernel: k, options: o, counter: c, file: f, groups: make(map[int]*group)}, nil
}

func (c *container) attach(n Node, calls *counter) (file, error) {
	if err := n.needGroup(); err != nil {
		return nil, err
	}
	g := c.groups[n.Group]
	if g == nil {
		var err error
		if g, err = c.enter(n); err != nil {
			return nil, err
		}
	}
	f, err := g.openDevice(c.kernel, n, calls)
	if err != nil {
		return nil, errors.Join(err, c.leave(g))
	}
	return f, nil
}

// enter opens n's group and puts it into the container.
func (c *container) enter(n Node) (*group, error) {
	g, err := openFor(c.kernel, c.options, n, c.counter)
	if err != nil {
		return nil, err
	}
	if err := c.admit(g); err != nil {
		return nil, errors.Join(err, g.close())
	}
	c.groups[n.Group] = g
	return g, nil
}

func (c *container) admit(g *group) error {
	if err := g.join(c.file); err != nil {
		return err
	}
	if len(c.groups) == 0 {
		if err := c.setIOMMU(g.node); err != nil {
			return err
		}
	}
	return g.announce()
}

// setIOMMU gives the container its IOMMU, which it can have only with a group.
func (c *container) setIOMMU(n Node) error {
	c.noIOMMU = n.NoIOMMU
	kind := uintptr(vfio.NoIOMMU)
	if !n.NoIOMMU {
		kind = vfio.Type1v2IOMMU
		if err := needType1(c.file); err != nil {
			return err
		}
	}
	if _, err := retryAttach(func() (int, error) { return c.file.control(callSetIOMMU, kind) }); err != nil {
		return c.options.describe(n, callSetIOMMU.fail(n.groupName(), err))
	}
	return nil
}

func (c *container) detach(n Node, f file) error {
	err := f.Close()
	g := c.groups[n.Group]
	g.users--
	return errors.Join(err, c.leave(g))
}

// leave takes a group that has no user out of the container. Before the last one all is
// unmapped, which would otherwise happen with it.
func (c *container) leave(g *group) error {
	if g.users > 0 {
		return nil
	}
	var err error
	if len(c.groups) == 1 && !c.noIOMMU {
		err = c.unmapAll()
	}
	delete(c.groups, g.node.Group)
	return errors.Join(err, g.close())
}

func (c *container) translates() bool { return len(c.groups) > 0 && !c.noIOMMU }

func (c *container) limits() (Limits, error) {
	if !c.translates() {
		return unlimited(), nil
	}
	for size := uint32(1024); ; {
		buf := make([]byte, size)
		info := vfio.IOMMUInfo{ArgSize: size}
		copy(buf, bytesOf(&info))
		if _, err := c.file.controlBytes(callGetIOMMUInfo, buf); err != nil {
			return Limits{}, callGetIOMMUInfo.fail(containerPath, err)
		}
		copy(bytesOf(&info), buf)
		if info.ArgSize <= size {
			return parseIOMMUInfo(buf)
		}
		if info.ArgSize > maxInfo {
			return Limits{}, fmt.Errorf("%s: %d bytes of information", callGetIOMMUInfo.name, info.ArgSize)
		}
		size = info.ArgSize
	}
}

func (c *container) mapDMA(m mapping) error {
	arg := vfio.DMAMap{VAddr: m.addr(), IOVA: m.iova, Size: m.size()}
	arg.ArgSize = uint32(len(bytesOf(&arg)))
	if m.prot&Read != 0 {
		arg.Flags |= vfio.MapRead
	}
	if m.prot&Write != 0 {
		arg.Flags |= vfio.MapWrite
	}
	if _, err := c.file.controlBytes(callMapDMA, bytesOf(&arg)); err != nil {
		return callMapDMA.failMap(Legacy, m, err)
	}
	return nil
}

func (c *container) unmapDMA(iova, size uint64) error {
	return c.unmap(vfio.DMAUnmap{IOVA: iova, Size: size})
}

// unmapAll unmaps everything at once, which kernels before 5.12 cannot; they do it as the
// last group leaves. EINVAL: it has left, because the host took its last device back.
func (c *container) unmapAll() error {
	if n, err := c.file.control(callCheckExtension, vfio.UnmapAll); err != nil || n <= 0 {
		return nil
	}
	err := c.unmap(vfio.DMAUnmap{Flags: vfio.UnmapFlagAll})
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func (c *container) unmap(arg vfio.DMAUnmap) error {
	arg.ArgSize = uint32(len(bytesOf(&arg)))
	if _, err := c.file.controlBytes(callUnmapDMA, bytesOf(&arg)); err != nil {
		return callUnmapDMA.fail(fmt.Sprintf("IOVA %#x, %#x bytes", arg.IOVA, arg.Size), err)
	}
	return nil
}

// hotReset proves with the groups' descriptors that all the devices are ours.
func (c *container) hotReset(f file, r HotReset) error {
	var fds []int32
	for _, d := range r.Devices {
		g := c.groups[d.Group]
		if g == nil {
			return fmt.Errorf("hot reset: it would reset %s too, in group %d, which this VM does not have: %w",
				d.Address, d.Group, feature.ErrNotSupported)
		}
		if fd := int32(g.file.Int()); !slices.Contains(fds, fd) {
			fds = append(fds, fd)
		}
	}
	return issueHotReset(f, fds)
}

func (c *container) close() error {
	var errs []error
	for _, g := range c.groups {
		errs = append(errs, g.close())
	}
	clear(c.groups)
	return errors.Join(append(errs, c.file.Close())...)
}
