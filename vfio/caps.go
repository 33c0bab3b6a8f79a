package vfio

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/uapi/vfio"
)

// maxInfo bounds, in bytes, what the kernel may want to say about one thing.
const maxInfo = 1 << 20

// decode copies a struct of the kernel's ABI out of the start of b.
func decode[T any](b []byte) (T, error) {
	var v T
	if len(b) < sizeOf[T]() {
		return v, fmt.Errorf("%d bytes where %d are needed", len(b), sizeOf[T]())
	}
	copy(bytesOf(&v), b)
	return v, nil
}

// forEachCap calls fn for each capability of the chain that starts at offset first of info,
// which begins with head bytes that are none. fn gets what follows from the header on.
func forEachCap(info []byte, head int, first uint32, fn func(id uint16, c []byte) error) error {
	// A chain without loops has no more links than fit.
	for left := len(info) / sizeOf[vfio.CapHeader](); first != 0; left-- {
		if left == 0 {
			return errors.New("capability chain has a loop")
		}
		if uint64(first) < uint64(head) || uint64(first) >= uint64(len(info)) {
			return fmt.Errorf("capability at offset %d of %d", first, len(info))
		}
		h, err := decode[vfio.CapHeader](info[first:])
		if err != nil {
			return fmt.Errorf("capability at offset %d: %w", first, err)
		}
		if err := fn(h.ID, info[first:]); err != nil {
			return fmt.Errorf("capability %d at offset %d: %w", h.ID, first, err)
		}
		first = h.Next
	}
	return nil
}

// readArray reads n elements that follow a header of head bytes.
func readArray[T any](b []byte, head int, n uint32) ([]T, error) {
	size := sizeOf[T]()
	if len(b) < head || uint64(n) > uint64(len(b)-head)/uint64(size) {
		return nil, fmt.Errorf("%d elements in %d bytes", n, len(b))
	}
	elements := make([]T, n)
	for i := range elements {
		copy(bytesOf(&elements[i]), b[head+i*size:])
	}
	return elements, nil
}

// parseIOMMUInfo reads struct vfio_iommu_type1_info and its capabilities.
func parseIOMMUInfo(b []byte) (Limits, error) {
	info, err := decode[vfio.IOMMUInfo](b)
	if err != nil {
		return Limits{}, fmt.Errorf("IOMMU info: %w", err)
	}
	// A container with nothing but emulated mediated devices has no ranges: all is allowed.
	l := unlimited()
	if info.Flags&vfio.IOMMUInfoPageSizes != 0 && info.PageSizes != 0 {
		l.PageSizes = info.PageSizes
		l.Alignment = info.PageSizes & -info.PageSizes
	}
	if info.Flags&vfio.IOMMUInfoCaps == 0 {
		return l, nil
	}
	err = forEachCap(b, sizeOf[vfio.IOMMUInfo](), info.CapOffset, func(id uint16, c []byte) error {
		switch id {
		case vfio.IOMMUCapIOVARange:
			h, err := decode[vfio.IOVARangeCap](c)
			if err != nil {
				return err
			}
			if len(c) < sizeOf[vfio.IOVARangeCap]() {
				return errors.New("cut off")
			}
			l.Ranges, err = readRanges(c[sizeOf[vfio.IOVARangeCap]():], h.NumRanges)
			return err
		case vfio.IOMMUCapDMAAvail:
			avail, err := decode[vfio.DMAAvailCap](c)
			l.Maps = int(avail.Avail)
			return err
		}
		return nil
	})
	if err != nil {
		return Limits{}, fmt.Errorf("IOMMU info: %w", err)
	}
	return l, nil
}

// readRanges reads n ranges; type1's and iommufd's look the same. They must be in order.
func readRanges(b []byte, n uint32) ([]Range, error) {
	raw, err := readArray[vfio.IOVARange](b, 0, n)
	if err != nil {
		return nil, err
	}
	ranges := make([]Range, n)
	for i, r := range raw {
		if r.End < r.Start || i > 0 && r.Start <= raw[i-1].End {
			return nil, fmt.Errorf("IOVA range %d, %#x-%#x, is out of order", i, r.Start, r.End)
		}
		ranges[i] = Range{r.Start, r.End}
	}
	return ranges, nil
}

// regionCaps is what a region's capabilities say.
type regionCaps struct {
	sparse        bool
	areas         []Area // if sparse
	msixMappable  bool
	kind, subkind uint32
}

// parseRegion reads struct vfio_region_info and its capabilities.
func parseRegion(b []byte) (vfio.RegionInfo, regionCaps, error) {
	var caps regionCaps
	info, err := decode[vfio.RegionInfo](b)
	if err != nil {
		return info, caps, err
	}
	if info.Offset+info.Size < info.Offset || info.Offset+info.Size > 1<<63 {
		return info, caps, fmt.Errorf("%#x bytes at offset %#x of the device", info.Size, info.Offset)
	}
	if info.Flags&vfio.RegionCaps == 0 {
		return info, caps, nil
	}
	err = forEachCap(b, sizeOf[vfio.RegionInfo](), info.CapOffset, func(id uint16, c []byte) error {
		switch id {
		case vfio.RegionCapSparseMmap:
			areas, err := parseSparse(c, info.Size)
			caps.sparse, caps.areas = true, areas
			return err
		case vfio.RegionCapType:
			t, err := decode[vfio.TypeCap](c)
			caps.kind, caps.subkind = t.Type, t.Subtype
			return err
		case vfio.RegionCapMSIXMappable:
			caps.msixMappable = true
		}
		return nil
	})
	return info, caps, err
}

// parseSparse reads the areas of a region of size bytes that can be mapped, in order. Those
// without bytes are left out.
func parseSparse(c []byte, size uint64) ([]Area, error) {
	h, err := decode[vfio.SparseMmapCap](c)
	if err != nil {
		return nil, err
	}
	raw, err := readArray[vfio.SparseMmapArea](c, sizeOf[vfio.SparseMmapCap](), h.NumAreas)
	if err != nil {
		return nil, err
	}
	var areas []Area
	for _, a := range raw {
		if a.Offset > size || a.Size > size-a.Offset {
			return nil, fmt.Errorf("area of %#x bytes at %#x in a region of %#x bytes", a.Size, a.Offset, size)
		}
		if a.Size > 0 {
			areas = append(areas, Area{Offset: a.Offset, Size: a.Size})
		}
	}
	slices.SortFunc(areas, func(a, b Area) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(areas); i++ {
		if areas[i].Offset < areas[i-1].Offset+areas[i-1].Size {
			return nil, fmt.Errorf("areas at %#x and %#x overlap", areas[i-1].Offset, areas[i].Offset)
		}
	}
	return areas, nil
}

// parseHotReset reads struct vfio_pci_hot_reset_info.
func parseHotReset(b []byte) (HotReset, error) {
	info, err := decode[vfio.HotResetInfo](b)
	if err != nil {
		return HotReset{}, err
	}
	devices, err := readArray[vfio.DependentDevice](b, sizeOf[vfio.HotResetInfo](), info.Count)
	if err != nil {
		return HotReset{}, err
	}
	r := HotReset{byID: info.Flags&vfio.HotResetDevID != 0}
	for _, d := range devices {
		a := Affected{Address: fmt.Sprintf("%04x:%02x:%02x.%x", d.Segment, d.Bus, d.DevFn>>3, d.DevFn&7), Group: -1}
		if r.byID {
			a.Owned = d.ID != vfio.DevIDNotOwned
		} else {
			a.Group = int(d.ID)
		}
		r.Devices = append(r.Devices, a)
	}
	return r, nil
}

// parseIRQ reads struct vfio_irq_info.
func parseIRQ(b []byte) (IRQInfo, error) {
	info, err := decode[vfio.IRQInfo](b)
	if err != nil {
		return IRQInfo{}, err
	}
	// PCI has no more than 2048 vectors (MSI-X).
	if info.Count > 2048 {
		return IRQInfo{}, fmt.Errorf("%d interrupts", info.Count)
	}
	return IRQInfo{
		Count:      int(info.Count),
		EventFD:    info.Flags&vfio.IRQEventFD != 0,
		Maskable:   info.Flags&vfio.IRQMaskable != 0,
		AutoMasked: info.Flags&vfio.IRQAutoMasked != 0,
		NoResize:   info.Flags&vfio.IRQNoResize != 0,
	}, nil
}
