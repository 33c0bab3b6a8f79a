package hostpci

import (
	"slices"
	"strconv"
)

// ScanFor reads of the host what Scan does for the functions that are named: them, their IOMMU
// groups with all members, and mediated devices with their groups. It is what passing through
// and binding ask for, and takes a few dozen reads where a large host's Scan takes thousands.
func (h *Host) ScanFor(functions ...BDF) (*Snapshot, error) {
	s := newSnapshot()
	var groups []int
	for _, b := range functions {
		f := h.scanFunction(s, b)
		if f == nil || f.Group == nil {
			return h.Scan() // which of the causes it is, the whole tells
		}
		groups = append(groups, *f.Group)
	}
	h.scanMediated(s)
	for _, m := range s.Mediated {
		if m.Group != nil {
			groups = append(groups, *m.Group)
		}
	}
	slices.Sort(groups)
	for _, id := range slices.Compact(groups) {
		names, _ := h.tree.list(iommuGroups + "/" + strconv.Itoa(id) + "/devices")
		for _, name := range names {
			if b, ok := parseBDF(name); ok {
				h.scanFunction(s, b)
			}
		}
		h.scanGroup(s, id)
	}
	s.sortFunctions()
	h.conclude(s)
	return s, nil
}
