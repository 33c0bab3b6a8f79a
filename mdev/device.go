package mdev

import (
	"fmt"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// Device is a mediated device.
type Device struct {
	*hostpci.Mediated
	// ParentGroup tells that the device is in the IOMMU group of its parent: both links
	// lead there.
	ParentGroup bool `json:"parent_group"`
	// Wrapped tells that it is a whole PCI function, made by Host.Wrap or alike.
	Wrapped bool `json:"wrapped"`
	// Holders are processes that have its group, or a VFIO device in that, open.
	Holders []hostpci.Process `json:"holders"`
}

// Devices returns the mediated devices, sorted by UUID.
func (h *Host) Devices() ([]Device, error) {
	s, err := h.pci.Scan()
	if err != nil {
		return nil, err
	}
	list := make([]Device, 0, len(s.Mediated))
	for _, m := range s.Mediated {
		list = append(list, device(s, m))
	}
	return list, nil
}

func device(s *hostpci.Snapshot, m *hostpci.Mediated) Device {
	d := Device{Mediated: m, Wrapped: m.Driver == hostpci.DonorDriver, Holders: holders(s, m.Group)}
	if m.ParentFunction != nil {
		f := s.Function(*m.ParentFunction)
		d.ParentGroup = f != nil && f.Group != nil && m.Group != nil && *f.Group == *m.Group
	}
	return d
}

func holders(s *hostpci.Snapshot, group *int) []hostpci.Process {
	if group == nil || s.Group(*group) == nil {
		return []hostpci.Process{}
	}
	return append([]hostpci.Process{}, s.Group(*group).Holders...)
}

// children returns the mediated devices of a PCI function.
func children(s *hostpci.Snapshot, b hostpci.BDF) []*hostpci.Mediated {
	var list []*hostpci.Mediated
	for _, m := range s.Mediated {
		if m.ParentFunction != nil && *m.ParentFunction == b {
			list = append(list, m)
		}
	}
	return list
}

// InUseError says that a device can't be taken away, because processes have it open and
// the kernel would wait for them.
type InUseError struct {
	Device  string // UUID
	Group   int
	Holders []hostpci.Process
}

func (e *InUseError) Error() string {
	names := make([]string, len(e.Holders))
	for i, p := range e.Holders {
		names[i] = p.String()
	}
	verb := "has"
	if len(names) > 1 {
		verb = "have"
	}
	return fmt.Sprintf("%s is in use: %s %s its IOMMU group %d open, and the kernel would not let go of it before that ends; end it first",
		e.Device, strings.Join(names, ", "), verb, e.Group)
}

// free tells what the removal of a device would wait for.
func free(s *hostpci.Snapshot, m *hostpci.Mediated) error {
	if list := holders(s, m.Group); len(list) > 0 {
		return &InUseError{m.UUID, *m.Group, list}
	}
	return nil
}
