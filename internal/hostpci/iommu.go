package hostpci

import "slices"

// IOMMU is what is known of the host's IOMMU.
type IOMMU struct {
	// On tells that functions are in isolated groups.
	On bool `json:"on"`
	// Units are the names in /sys/class/iommu, such as dmar0 or ivhd0.
	Units []string `json:"units,omitempty"`
	// Reason and Remedy are set where it is not on.
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// What to do where the IOMMU is not on.
const (
	remedyVTd      = "boot with intel_iommu=on"
	remedyAMD      = "boot without amd_iommu=off and iommu=off"
	remedyFirmware = "turn on VT-d or AMD-Vi (IOMMU) in the firmware setup, and on Intel boot with intel_iommu=on; in a virtual machine, give it a virtual IOMMU"
)

// IOMMURemedies returns all that IOMMU.Remedy may say about a host that could have an IOMMU, the longest first: callers
// replace it where it cannot be followed.
func IOMMURemedies() []string { return []string{remedyFirmware, remedyAMD, remedyVTd} }

func (h *Host) iommu(s *Snapshot) IOMMU {
	var i IOMMU
	i.Units, _ = h.tree.list("/sys/class/iommu")
	slices.Sort(i.Units)
	i.On = slices.ContainsFunc(s.Functions, func(f *Function) bool {
		return f.Group != nil && s.Group(*f.Group) != nil && s.Group(*f.Group).Kind == Isolated
	})
	const tables = "/sys/firmware/acpi/tables/"
	switch {
	case i.On:
	case len(s.Functions) == 0:
		i.Reason, i.Remedy = "this host has no PCI functions", "none"
	case h.tree.exists(tables + "DMAR"):
		i.Reason = "the IOMMU (VT-d) is there, but the kernel does not use it"
		i.Remedy = remedyVTd
	case h.tree.exists(tables + "IVRS"):
		i.Reason = "the IOMMU (AMD-Vi) is there, but the kernel does not use it"
		i.Remedy = remedyAMD
	default:
		i.Reason = "the firmware reports no IOMMU"
		i.Remedy = remedyFirmware
	}
	return i
}
