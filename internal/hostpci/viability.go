package hostpci

import (
	"fmt"
	"strings"
)

// Rule is the rule of viability in one sentence.
const Rule = "A group is viable when every endpoint of it is bound to a VFIO driver, or donates the group to a mediated device, or has no driver."

// Status says how a device counts for its group's viability.
type Status string

const (
	StatusVFIO       Status = "vfio"        // bound to a VFIO driver
	StatusDonates    Status = "donates"     // its driver acts for the mediated device made of it
	StatusMediated   Status = "mediated"    // is a mediated device
	StatusNoDriver   Status = "no-driver"   // nobody drives it
	StatusBridge     Status = "bridge"      // forwards, with the driver of PCIe ports or none
	StatusStub       Status = "stub"        // held by pci-stub, which does nothing
	StatusHostDriver Status = "host-driver" // a driver of the host may start DMA
	StatusGone       Status = "gone"        // taken away while it was looked at
)

// fine tells whether a group with such a member can be viable.
func (s Status) fine() bool { return s != StatusHostDriver }

// Ready tells whether a device of this status can be given to a guest.
func (s Status) Ready() bool { return s == StatusVFIO || s == StatusMediated }

// DonorDriver is the driver that makes a mediated device of a whole PCI function and
// lends it the function's group.
const DonorDriver = "vfio-mdev-pci"

// statusOf follows the kernel's rule since 5.19: a group can be owned by a user unless a
// driver that did not ask to manage DMA itself (driver_managed_dma) is bound in it.
// Those that ask are VFIO's drivers, pcieport and pci-stub. So a bridge counts as fine
// with pcieport or no driver, but not with, say, shpchp, which older kernels let pass.
func statusOf(f *Function) Status {
	switch {
	case f.Driver == DonorDriver:
		return StatusDonates
	case f.VFIODevice != "" || isVFIODriver(f.Driver):
		return StatusVFIO
	case f.Driver == "pci-stub":
		return StatusStub
	case f.Driver == "pcieport" || f.Bridge && f.Driver == "":
		return StatusBridge
	case f.Driver == "":
		return StatusNoDriver
	}
	return StatusHostDriver
}

// isVFIODriver tells by its name whether a driver provides VFIO. Kernels before 6.1 have
// no other sign of it; since then the driver makes a vfio-dev folder. The variants for
// one kind of device have names such as mlx5-vfio-pci and virtio_vfio_pci.
func isVFIODriver(name string) bool {
	name = strings.ReplaceAll(name, "_", "-")
	return name == "vfio-pci" || strings.HasSuffix(name, "-vfio-pci")
}

// Viability is whether a group can be given away, and why not.
type Viability struct {
	Viable bool `json:"viable"`
	// Usable tells that something in the group is ready to be given to a guest.
	Usable bool `json:"usable"`
	// Blockers are the members on drivers of the host.
	Blockers []Blocker `json:"blockers,omitempty"`
	// Reason is one sentence that names the blockers, "" for a viable group.
	Reason string `json:"reason,omitempty"`
	// Remedy is what to do, mostly a command; for a viable group that is not usable, too. It is "" where the
	// host itself stands on a member.
	Remedy string `json:"remedy,omitempty"`
}

// Blocker is a member that keeps its group from being viable.
type Blocker struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Note tells what is special about it.
	Note string `json:"note,omitempty"`
	// Uses are what works with it now, as far as that is known without asking processes.
	Uses []Use `json:"uses,omitempty"`
}

// Vital tells that the host itself stands on it.
func (b Blocker) Vital() bool { return vital(b.Uses) }

func (b Blocker) String() string {
	switch {
	case b.Note != "":
		return fmt.Sprintf("%s is on the host's driver %s (%s)", b.Name, b.Driver, b.Note)
	case len(b.Uses) > 0:
		return fmt.Sprintf("%s is on the host's driver %s (%s)", b.Name, b.Driver, joinUses(b.Uses))
	}
	return fmt.Sprintf("%s is on the host's driver %s", b.Name, b.Driver)
}

func (l *look) viability(s *Snapshot, g *Group) Viability {
	var v Viability
	var bind, unbound, used, other []string
	stays := false
	for _, m := range g.Members {
		v.Usable = v.Usable || m.Status.Ready()
		if worthBinding(s, m) {
			unbound = append(unbound, m.Name)
		}
		if m.Status.fine() {
			continue
		}
		b, remedy := l.blocker(s, m)
		v.Blockers = append(v.Blockers, b)
		stays = stays || b.Vital()
		switch {
		case remedy != "":
			other = append(other, remedy)
		case len(b.Uses) > 0:
			used = append(used, m.Name)
		default:
			bind = append(bind, m.Name)
		}
	}
	v.Viable = len(v.Blockers) == 0
	v.Usable = v.Usable && v.Viable
	switch {
	case !v.Viable:
		v.Reason = fmt.Sprintf("IOMMU group %d is not viable: %s", g.ID, joinBlockers(v.Blockers))
		if !stays {
			v.Remedy = joinRemedies(bind, used, other)
		}
	case !v.Usable && len(unbound) > 0:
		v.Remedy = joinRemedies(unbound, nil, nil)
	}
	return v
}

// worthBinding tells whether a member that blocks nothing is something a guest could
// want. Parts of the chipset without a driver (base class 06) are not.
func worthBinding(s *Snapshot, m Member) bool {
	f := s.member(m)
	return f != nil && (m.Status == StatusNoDriver || m.Status == StatusStub) && f.Class>>16 != classBridges
}

// blocker describes a member on a host driver. The remedy is "" where it is to bind it.
func (l *look) blocker(s *Snapshot, m Member) (Blocker, string) {
	if m.Function == nil {
		return Blocker{Name: m.Name, Driver: m.Driver, Note: "not a PCI function"}, "unbind " + m.Name + " from its driver"
	}
	f := s.Function(*m.Function)
	b := Blocker{Name: m.Name, Driver: f.Driver}
	children := s.children(f.Address)
	switch {
	case f.Bridge:
		b.Note = "a bridge, which may only have pcieport or no driver"
		return b, fmt.Sprintf("echo %s > %s/%s/unbind", m.Name, pciDrivers, f.Driver)
	case len(children) > 0:
		b.Note = "parent of mediated device " + children[0].UUID + ", whose driver does not donate the group"
		return b, fmt.Sprintf("stile mdev remove %s, then stile bind %s", children[0].UUID, m.Name)
	case len(f.VirtualFunctions) > 0:
		b.Note = "its driver keeps the virtual functions, which end when it is unbound"
		return b, "none that keeps the virtual functions: a physical function beside one of them in a group needs a slot or a machine with isolation (ACS)"
	}
	b.Uses = l.uses(s, f)
	return b, ""
}

func joinBlockers(list []Blocker) string {
	texts := make([]string, len(list))
	for i, b := range list {
		texts[i] = b.String()
	}
	return joinAnd(texts)
}

// joinAnd joins texts as a sentence does.
func joinAnd(texts []string) string {
	if len(texts) < 2 {
		return strings.Join(texts, "")
	}
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " and " + texts[last]
}

// joinRemedies: what is used must be free before it can be bound.
func joinRemedies(bind, used, other []string) string {
	var all []string
	if len(bind) > 0 {
		all = append(all, "stile bind "+strings.Join(bind, " "))
	}
	if len(used) > 0 {
		all = append(all, "end what uses "+joinAnd(used)+", then stile bind "+strings.Join(used, " "))
	}
	return strings.Join(append(all, other...), "; ")
}
