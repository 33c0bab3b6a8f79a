package mdev

import (
	"errors"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// WrapOptions says how to wrap.
type WrapOptions struct {
	// UUID is that of the mediated device; a new one if it is "".
	UUID string
	// Force wraps a function although something on the host uses it. One that a process
	// has open by VFIO is refused all the same.
	Force bool
	// Driver loads the module, if its driver is not there; see Module.
	Driver func() error
	// Notice is told what takes long, and what was put right on the way. It may be nil.
	Notice func(text string)
}

func (o WrapOptions) notice(text string) {
	if o.Notice != nil {
		o.Notice(text)
	}
}

// Wrapped is a PCI function as a mediated device.
type Wrapped struct {
	UUID     string      `json:"uuid"`
	Function hostpci.BDF `json:"function"`
	// From is the driver that it goes back to, "" for none.
	From string `json:"from"`
	// Group is the group of both, with all of its members.
	Group *hostpci.Group `json:"group"`
}

// Wrap makes a PCI function a mediated device in the function's IOMMU group: it binds
// the function to the module's driver and makes the one device that there can be. Either
// all of it is done or nothing. Before that, what killed processes left is undone.
func (h *Host) Wrap(b hostpci.BDF, o WrapOptions) (*Wrapped, error) {
	if err := h.Recover(o.Notice); err != nil {
		o.notice(err.Error())
	}
	if o.UUID == "" {
		o.UUID = NewUUID()
	}
	uuid, err := ParseUUID(o.UUID)
	if err != nil {
		return nil, err
	}
	step, err := h.planWrap(b, uuid, o)
	if err != nil {
		return nil, err
	}
	n := note{Devices: []string{uuid}, Bound: len(step.Writes) > 0}
	f, err := h.begin(b, n)
	if err != nil {
		return nil, err
	}
	w, err := h.wrap(b, uuid, n, o)
	if err == nil {
		w.From = step.Back
		return w, f.end()
	}
	err = fmt.Errorf("wrap %v: %w", b, err)
	if back := h.undo(b, n, o.notice); back != nil {
		f.abandon()
		return nil, errors.Join(err, back)
	}
	return nil, errors.Join(err, f.end())
}

// planWrap refuses what can't be wrapped, before anything is built or loaded.
func (h *Host) planWrap(b hostpci.BDF, uuid string, o WrapOptions) (hostpci.Step, error) {
	s, err := h.pci.Scan()
	if err != nil {
		return hostpci.Step{}, err
	}
	if m := s.MediatedDevice(uuid); m != nil {
		return hostpci.Step{}, fmt.Errorf("%s is a mediated device of %s already; choose another UUID, or none", uuid, m.Parent)
	}
	if list := children(s, b); len(list) > 0 && s.Function(b).Driver == hostpci.DonorDriver {
		return hostpci.Step{}, fmt.Errorf("%v is wrapped as %s already", b, list[0].UUID)
	}
	p, err := h.pci.PlanBind([]hostpci.BDF{b}, h.bindOptions(o))
	if err != nil {
		return hostpci.Step{}, err
	}
	return p.Steps[0], nil
}

// bindOptions: the binding outlives the process, as what was wrapped does.
func (h *Host) bindOptions(o WrapOptions) hostpci.BindOptions {
	return hostpci.BindOptions{Driver: hostpci.DonorDriver, Force: o.Force, Keep: true, Notice: o.Notice}
}

func (h *Host) wrap(b hostpci.BDF, uuid string, n note, o WrapOptions) (*Wrapped, error) {
	if o.Driver != nil && !h.exists(pciDrivers+"/"+hostpci.DonorDriver) {
		if err := o.Driver(); err != nil {
			return nil, err
		}
	}
	if n.Bound {
		if _, err := h.pci.Bind([]hostpci.BDF{b}, h.bindOptions(o)); err != nil {
			return nil, err
		}
	}
	p, err := h.Parent(b.String())
	if err != nil {
		return nil, err
	}
	if len(p.Types) != 1 {
		return nil, fmt.Errorf("the driver %s has %d types of mediated devices where one was expected", p.Driver, len(p.Types))
	}
	if _, err := h.Create(p.Name, p.Types[0].ID, uuid); err != nil {
		return nil, err
	}
	return h.wrapped(b, uuid)
}

// wrapped reads back what was made.
func (h *Host) wrapped(b hostpci.BDF, uuid string) (*Wrapped, error) {
	s, err := h.pci.Scan()
	if err != nil {
		return nil, err
	}
	m := s.MediatedDevice(uuid)
	if m == nil {
		return nil, fmt.Errorf("the kernel accepted %s, and it is not there", uuid)
	}
	if !device(s, m).ParentGroup {
		return nil, fmt.Errorf("%s is not in the IOMMU group of %v: the driver %s is not the one that this stile knows", uuid, b, m.Driver)
	}
	return &Wrapped{UUID: uuid, Function: b, Group: s.Group(*m.Group)}, nil
}

// UnwrapOptions says how to unwrap.
type UnwrapOptions struct {
	// Force also unwraps what stile did not wrap: the kernel then chooses the driver.
	Force bool
	// Notice is as for WrapOptions.
	Notice func(text string)
}

// Unwrapped is a PCI function that is no mediated device any more.
type Unwrapped struct {
	Function hostpci.BDF `json:"function"`
	// Devices are the mediated devices that were removed.
	Devices []string `json:"devices"`
	// Driver is the function's driver now, "" for none.
	Driver string `json:"driver"`
}

// Unwrap removes a function's mediated device and gives the function back to the driver
// that it had. The target is the device's UUID or the function's address. What is in use
// is refused with an InUseError.
func (h *Host) Unwrap(target string, o UnwrapOptions) (*Unwrapped, error) {
	notice := o.Notice
	if notice == nil {
		notice = func(string) {}
	}
	if err := h.Recover(notice); err != nil {
		notice(err.Error())
	}
	s, err := h.pci.Scan()
	if err != nil {
		return nil, err
	}
	b, err := h.wrappedFunction(s, target)
	if err != nil {
		return nil, err
	}
	n := note{Devices: []string{}, Bound: true}
	for _, m := range children(s, b) {
		if err := free(s, m); err != nil {
			return nil, err
		}
		n.Devices = append(n.Devices, m.UUID)
	}
	e, err := h.binding(b)
	if err != nil {
		return nil, err
	}
	if e == nil && !o.Force {
		return nil, fmt.Errorf("%v was not bound to %s by stile, so the driver to go back to is not known; with --force the kernel chooses one", b, hostpci.DonorDriver)
	}
	f, err := h.begin(b, n)
	if err != nil {
		return nil, err
	}
	if err := h.unwrap(b, n, hostpci.UnbindOptions{Force: e == nil, Notice: notice}); err != nil {
		return nil, errors.Join(fmt.Errorf("unwrap %v: %w", b, err), f.end())
	}
	return &Unwrapped{b, n.Devices, h.linkName("/sys/bus/pci/devices/" + b.String() + "/driver")}, f.end()
}

func (h *Host) unwrap(b hostpci.BDF, n note, o hostpci.UnbindOptions) error {
	for _, uuid := range n.Devices {
		if err := h.remove(uuid, nil, o.Notice); err != nil {
			return err
		}
	}
	_, err := h.pci.Unbind([]hostpci.BDF{b}, o)
	return err
}

// wrappedFunction returns the function that a user wants unwrapped. One that an unwrap
// could not give back has no device and another driver, or none.
func (h *Host) wrappedFunction(s *hostpci.Snapshot, target string) (hostpci.BDF, error) {
	if uuid, err := ParseUUID(target); err == nil {
		m := s.MediatedDevice(uuid)
		switch {
		case m == nil:
			return hostpci.BDF{}, fmt.Errorf("no mediated device %s on this host; see stile mdev list", uuid)
		case m.ParentFunction == nil || m.Driver != hostpci.DonorDriver:
			return hostpci.BDF{}, fmt.Errorf("%s is no wrapped PCI function but a device that the driver %s of %s makes; use stile mdev remove %s", uuid, m.Driver, m.Parent, uuid)
		}
		return *m.ParentFunction, nil
	}
	b, err := h.pci.Resolve(target)
	if err != nil {
		return b, err
	}
	if f := s.Function(b); f != nil && f.Driver == hostpci.DonorDriver {
		return b, nil
	}
	e, err := h.binding(b)
	if err == nil && e == nil {
		err = fmt.Errorf("%v is not wrapped; see stile mdev list", b)
	}
	return b, err
}

// Others returns the members of the group beside the function and its device.
func (w *Wrapped) Others() []hostpci.Member {
	return slices.DeleteFunc(slices.Clone(w.Group.Members), func(m hostpci.Member) bool {
		return m.Name == w.UUID || m.Function != nil && *m.Function == w.Function
	})
}
