package hostpci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is what stands behind a group.
type Kind string

const (
	// Isolated groups have an IOMMU between their members and memory.
	Isolated Kind = "isolated"
	// Emulated groups hold one mediated device whose driver checks its memory accesses.
	// sysfs names such a group vfio-noiommu, which is no sign of missing isolation.
	Emulated Kind = "emulated"
	// Unprotected groups are VFIO's no-IOMMU mode: their members reach all of memory.
	Unprotected Kind = "unprotected"
)

// noIOMMUName is the name of groups that VFIO itself makes.
const noIOMMUName = "vfio-noiommu"

// Group is an IOMMU group: a set of devices without any order among them.
type Group struct {
	ID   int  `json:"id"`
	Kind Kind `json:"kind"`
	// Name is mostly empty.
	Name string `json:"name,omitempty"`
	// Type is that of the group's default domain: DMA, DMA-FQ, identity, …
	Type string `json:"type,omitempty"`
	// Members are sorted.
	Members []Member `json:"members"`
	// Reserved are the I/O addresses that nothing may be mapped at.
	Reserved  []Region  `json:"reserved,omitempty"`
	Viability Viability `json:"viability"`
	// Holders are processes that have the group, or a VFIO device in it, open.
	Holders  []Process `json:"holders,omitempty"`
	Problems []string  `json:"problems,omitempty"`
}

// Member is a device of a group: a PCI function, a mediated device or another.
type Member struct {
	Name string `json:"name"`
	// Function is the address of a PCI function, nil for others.
	Function *BDF `json:"-"`
	// Mediated tells that Name is a mediated device's UUID.
	Mediated bool `json:"mediated,omitempty"`
	// Driver of a member that is not a PCI function.
	Driver string `json:"driver,omitempty"`
	// Status is how the member counts for the group's viability.
	Status Status `json:"status"`
}

// Node is the path of the group's device file, which exists while a VFIO driver is
// bound to a member.
func (g *Group) Node() string {
	if g.Kind == Unprotected {
		return fmt.Sprintf("/dev/vfio/noiommu-%d", g.ID)
	}
	return fmt.Sprintf("/dev/vfio/%d", g.ID)
}

// Functions returns the addresses of the members that are PCI functions, sorted.
func (g *Group) Functions() []BDF {
	var list []BDF
	for _, m := range g.Members {
		if m.Function != nil {
			list = append(list, *m.Function)
		}
	}
	return list
}

// member returns the function that a member is, nil for others and for what is gone.
func (s *Snapshot) member(m Member) *Function {
	if m.Function == nil {
		return nil
	}
	return s.Function(*m.Function)
}

func (h *Host) scanGroups(s *Snapshot) {
	names, _ := h.tree.list(iommuGroups)
	for _, name := range names {
		id, err := strconv.Atoi(name)
		if err != nil || id < 0 {
			continue
		}
		h.scanGroup(s, id)
	}
	s.sortGroups()
}

func (h *Host) scanGroup(s *Snapshot, id int) {
	g := h.group(s, id)
	s.Groups = append(s.Groups, g)
	s.groups[id] = g
}

func (s *Snapshot) sortGroups() {
	slices.SortFunc(s.Groups, func(a, b *Group) int { return a.ID - b.ID })
}

func (h *Host) group(s *Snapshot, id int) *Group {
	dir := iommuGroups + "/" + strconv.Itoa(id)
	g := &Group{ID: id, Kind: Isolated, Members: []Member{}}
	names, err := h.tree.list(dir + "/devices")
	if err != nil {
		g.Problems = append(g.Problems, "devices: "+plain(err))
	}
	for _, m := range s.Mediated { // of which the folder need not have a name
		if m.Group != nil && *m.Group == id && !slices.Contains(names, m.UUID) {
			names = append(names, m.UUID)
		}
	}
	slices.SortFunc(names, compareMembers)
	for _, name := range names {
		g.Members = append(g.Members, h.member(s, dir, name))
	}
	g.Name, _ = h.tree.text(dir + "/name") // there only where a name was given
	g.Kind = kindOf(g)
	if g.Kind != Isolated {
		return g
	}
	if g.Type, err = h.tree.text(dir + "/type"); err != nil {
		g.Problems = append(g.Problems, "type: "+plain(err))
	}
	text, err := h.tree.bytes(dir+"/reserved_regions", attributeSize)
	if err == nil {
		g.Reserved, err = ParseReserved(text)
	}
	if err != nil {
		g.Problems = append(g.Problems, "reserved_regions: "+plain(err))
	}
	return g
}

// kindOf classifies a group by its name and its members.
func kindOf(g *Group) Kind {
	if g.Name != noIOMMUName {
		return Isolated
	}
	if slices.ContainsFunc(g.Members, func(m Member) bool { return !m.Mediated }) {
		return Unprotected
	}
	return Emulated
}

func (h *Host) member(s *Snapshot, dir, name string) Member {
	m := Member{Name: name}
	if b, ok := parseBDF(name); ok {
		m.Function = &b
		m.Status = StatusGone
		if f := s.Function(b); f != nil {
			m.Status = f.Status
		}
		return m
	}
	m.Mediated = isUUID(name)
	if mediated := s.mediated[name]; mediated != nil {
		m.Driver = mediated.Driver
	} else {
		m.Driver = h.tree.linkName(dir + "/devices/" + name + "/driver")
	}
	switch {
	case m.Driver == "":
		m.Status = StatusNoDriver
	case m.Mediated:
		m.Status = StatusMediated
	case strings.HasPrefix(m.Driver, "vfio-"):
		m.Status = StatusVFIO
	default:
		m.Status = StatusHostDriver
	}
	return m
}

// compareMembers sorts functions by address, before all others.
func compareMembers(a, b string) int {
	x, ok1 := parseBDF(a)
	y, ok2 := parseBDF(b)
	switch {
	case ok1 && ok2:
		return x.Compare(y)
	case ok1:
		return -1
	case ok2:
		return 1
	}
	return strings.Compare(a, b)
}

// Endpoints returns the members of a group that are to be bound when all of it shall go
// to a guest: its PCI functions without bridges, without parts of the chipset that have
// no driver, and without those that donate the group to a mediated device.
func (s *Snapshot) Endpoints(id int) ([]BDF, error) {
	g := s.Group(id)
	if g == nil {
		return nil, fmt.Errorf("no IOMMU group %d on this host; see stile devices", id)
	}
	var list []BDF
	for _, m := range g.Members {
		f := s.member(m)
		if f == nil || f.Bridge {
			continue
		}
		if m.Status == StatusHostDriver || m.Status == StatusVFIO || worthBinding(s, m) {
			list = append(list, f.Address)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("IOMMU group %d has no function that can be bound", id)
	}
	return list, nil
}
