package guest

import (
	"cmp"
	"slices"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/vfio"
	"github.com/stile-vmm/stile/vmm"
)

// DevicePlan is what a run with devices would do.
type DevicePlan struct {
	Bind    *hostpci.Plan   `json:"bind,omitempty"` // nil if nothing is to be bound
	Devices []PlannedDevice `json:"devices"`
	// RAM are the guest-physical addresses that devices will reach, each by one map.
	RAM []AddressRange `json:"ram"`
	// Pinned is how many bytes of the host's memory are taken, and PinFault why they can't be.
	Pinned   uint64 `json:"pinned"`
	PinFault string `json:"pin_fault,omitempty"`
}

// AddressRange is a range of addresses, both ends included.
type AddressRange struct {
	Start uint64 `json:"start"`
	Last  uint64 `json:"last"`
}

// PlannedDevice is a device of a plan, with its IOMMU group.
type PlannedDevice struct {
	Name       string           `json:"name"`
	Title      string           `json:"title,omitempty"`
	Function   string           `json:"function,omitempty"` // that a mediated device stands for
	Group      int              `json:"group"`              // -1 if it is in none
	Members    []string         `json:"members,omitempty"`
	Reserved   []hostpci.Region `json:"reserved,omitempty"`
	BARs       []PlannedBAR     `json:"bars,omitempty"`
	Resettable *bool            `json:"resettable,omitempty"` // nil if only its driver knows
}

// PlannedBAR is a BAR with its address in the guest.
type PlannedBAR struct {
	hostpci.BAR
	Guest uint64 `json:"guest_address"`
}

// PlanDevices tells what a run of s would do with its devices, and changes nothing. The error
// says all that would be refused before anything is changed.
func PlanDevices(s Spec) (*DevicePlan, error) { return planOn(hostpci.New("/"), s.withDefaults()) }

func planOn(host *hostpci.Host, s Spec) (*DevicePlan, error) {
	c, err := checkOn(host, "", s)
	if err != nil {
		return nil, err
	}
	w := c.wanted
	p := &DevicePlan{Pinned: s.Memory}
	if len(w.bind) > 0 {
		if p.Bind, err = host.PlanBind(w.bind, hostpci.BindOptions{}); err != nil {
			return nil, err
		}
	}
	snapshot, err := c.scan()
	if err != nil {
		return nil, err
	}
	for _, d := range w.devices {
		p.Devices = append(p.Devices, planDevice(host, snapshot, d.name))
	}
	backend := vfio.Backend(s.VFIO)
	if backend == "" {
		backend = vfio.Legacy // counts more strictly
	}
	if err := cmp.Or(vmm.CheckHostMemory(s.Memory), vfio.CheckMemlock(backend, s.Memory)); err != nil {
		p.PinFault = err.Error()
	}
	ranges, err := vmm.PlaceRAM(s.Memory, usable(p.Devices))
	if err != nil {
		return nil, err
	}
	for _, r := range ranges {
		p.RAM = append(p.RAM, AddressRange{r.Start, r.End() - 1})
	}
	bars := p.bars()
	if err := vmm.PlaceBARs(ranges, bars); err != nil {
		return nil, err
	}
	for i, d := range p.Devices {
		for j := range d.BARs {
			d.BARs[j].Guest = bars[i].BARs[j].Address
		}
	}
	return p, nil
}

// bars returns the BARs of each device as they are to be placed.
func (p *DevicePlan) bars() []vmm.DeviceBARs {
	devices := make([]vmm.DeviceBARs, len(p.Devices))
	for i, d := range p.Devices {
		devices[i].Name = d.Name
		for _, b := range d.BARs {
			devices[i].BARs = append(devices[i].BARs, vmm.BAR{Index: b.Index, Size: guestSize(b.BAR), IO: b.IO, Wide: b.Wide})
		}
	}
	return devices
}

// page is the size of one, in bytes.
const page = 4096

// guestSize is how large the guest will see a BAR: one below a page gets its page where the host's
// begins one, because the kernel lets it be mapped then.
func guestSize(b hostpci.BAR) uint64 {
	if b.IO || b.Index == hostpci.ROM || b.Address%page != 0 {
		return b.Size
	}
	return max(b.Size, page)
}

func planDevice(host *hostpci.Host, s *hostpci.Snapshot, name string) PlannedDevice {
	d := PlannedDevice{Name: name, Group: -1}
	group := (*int)(nil)
	if b, err := hostpci.ParseBDF(name); err == nil {
		if f := s.Function(b); f != nil {
			group = f.Group
			d.describe(host, s, f)
		}
	} else if m := s.MediatedDevice(name); m != nil {
		group = m.Group
		if f := wrappedFunction(s, m); f != nil {
			d.Function = f.Address.String()
			d.describe(host, s, f)
		}
	}
	if group == nil || s.Group(*group) == nil {
		return d
	}
	g := s.Group(*group)
	d.Group, d.Reserved = g.ID, g.Reserved
	for _, m := range g.Members {
		d.Members = append(d.Members, m.Name)
	}
	return d
}

// describe notes what the guest will have of f.
func (d *PlannedDevice) describe(host *hostpci.Host, s *hostpci.Snapshot, f *hostpci.Function) {
	host.Name(f)
	detail := host.Detail(s, f)
	d.Title, d.Resettable = f.Title(), &detail.Resettable
	for _, b := range detail.BARs {
		d.BARs = append(d.BARs, PlannedBAR{BAR: b})
	}
}

// wrappedFunction returns the function that all of m is, nil if a driver emulates m.
func wrappedFunction(s *hostpci.Snapshot, m *hostpci.Mediated) *hostpci.Function {
	if m.Emulated || m.ParentFunction == nil {
		return nil
	}
	if f := s.Function(*m.ParentFunction); f != nil && f.Status == hostpci.StatusDonates {
		return f
	}
	return nil
}

// relaxable regions are the firmware's wish only: VFIO lets them be mapped.
const relaxable = "direct-relaxable"

// usable returns the addresses that no group of the devices reserves, in order. How wide the
// IOMMU is the kernel tells only to who has a device open.
func usable(devices []PlannedDevice) []vfio.Range {
	var reserved []hostpci.Region
	for _, d := range devices {
		for _, r := range d.Reserved {
			if r.Type != relaxable {
				reserved = append(reserved, r)
			}
		}
	}
	slices.SortFunc(reserved, func(a, b hostpci.Region) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	var list []vfio.Range
	next := uint64(0)
	for _, r := range reserved {
		if r.Start > next {
			list = append(list, vfio.Range{Start: next, Last: r.Start - 1})
		}
		if r.End == 1<<64-1 {
			return list
		}
		next = max(next, r.End+1)
	}
	return append(list, vfio.Range{Start: next, Last: 1<<64 - 1})
}
