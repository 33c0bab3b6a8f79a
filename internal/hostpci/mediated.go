package hostpci

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Mediated is a mediated device.
type Mediated struct {
	UUID string `json:"uuid"`
	// Parent is the name of the parent's folder, ParentFunction its address if it is a PCI function.
	Parent         string `json:"parent"`
	ParentFunction *BDF   `json:"-"`
	Type           string `json:"type,omitempty"`
	Driver         string `json:"driver"`
	// Group is the number of the IOMMU group, nil where the kernel makes none.
	Group *int `json:"group"`
	// Emulated tells that the parent's driver checks the device's memory accesses, and
	// no IOMMU does. Otherwise the device is in a group that an IOMMU isolates.
	Emulated bool `json:"emulated"`
	// VFIODevice is the name of the VFIO device ("vfio0") that the driver made.
	VFIODevice string `json:"vfio_device,omitempty"`
}

func (h *Host) scanMediated(s *Snapshot) {
	names, _ := h.tree.list(mdevDevices)
	for _, name := range names {
		if !isUUID(name) {
			continue
		}
		m := h.mediated(name)
		s.Mediated = append(s.Mediated, m)
		s.mediated[name] = m
	}
	slices.SortFunc(s.Mediated, func(a, b *Mediated) int { return strings.Compare(a.UUID, b.UUID) })
}

func (h *Host) mediated(uuid string) *Mediated {
	dir := mdevDevices + "/" + uuid
	m := &Mediated{UUID: uuid, Emulated: true}
	// The link leads to the device's own folder, which is inside its parent's.
	if to, err := h.tree.link(dir); err == nil {
		m.Parent = filepath.Base(filepath.Dir(to))
	}
	if b, ok := parseBDF(m.Parent); ok {
		m.ParentFunction = &b
	}
	m.Type = h.tree.linkName(dir + "/mdev_type")
	m.Driver = h.tree.linkName(dir + "/driver")
	m.VFIODevice = h.vfioDevice(dir)
	if id, err := strconv.Atoi(h.tree.linkName(dir + "/iommu_group")); err == nil && id >= 0 {
		m.Group = &id
	}
	return m
}

// settleMediated tells the mediated devices of isolated groups from those that are
// emulated, once the groups are known.
func (s *Snapshot) settleMediated() {
	for _, m := range s.Mediated {
		if m.Group == nil {
			continue
		}
		g := s.Group(*m.Group)
		m.Emulated = g == nil || g.Kind != Isolated
	}
}

// children returns the mediated devices that a function is the parent of.
func (s *Snapshot) children(b BDF) []*Mediated {
	var list []*Mediated
	for _, m := range s.Mediated {
		if m.ParentFunction != nil && *m.ParentFunction == b {
			list = append(list, m)
		}
	}
	return list
}
