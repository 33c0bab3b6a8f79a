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
		i.Remedy = "boot with intel_iommu=on"
	case h.tree.exists(tables + "IVRS"):
		i.Reason = "the IOMMU (AMD-Vi) is there, but the kernel does not use it"
		i.Remedy = "boot without amd_iommu=off and iommu=off"
	default:
		i.Reason = "the firmware reports no IOMMU"
		i.Remedy = "turn on VT-d or AMD-Vi (IOMMU) in the firmware setup, and on Intel boot with intel_iommu=on; in a virtual machine, give it a virtual IOMMU"
	}
	return i
}
