package vfio

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
)

// chain lays capabilities after an info's fixed part, each pointing to the next.
func chain(head []byte, caps ...[]byte) []byte {
	b := slices.Clone(head)
	for i, c := range caps {
		c = slices.Clone(c)
		h, _ := decode[vfio.CapHeader](c)
		if i < len(caps)-1 {
			h.Next = uint32(len(b) + len(c))
		}
		copy(c, bytesOf(&h))
		b = append(b, c...)
	}
	return b
}

// region returns a region's info with capabilities.
func region(size uint64, caps ...[]byte) []byte {
	info := vfio.RegionInfo{Flags: vfio.RegionRead | vfio.RegionWrite | vfio.RegionMmap, Size: size}
	if len(caps) > 0 {
		info.Flags |= vfio.RegionCaps
		info.CapOffset = uint32(sizeOf[vfio.RegionInfo]())
	}
	return chain(bytesOf(&info), caps...)
}

func sparse(areas ...vfio.SparseMmapArea) []byte {
	c := vfio.SparseMmapCap{Header: vfio.CapHeader{ID: vfio.RegionCapSparseMmap, Version: 1}, NumAreas: uint32(len(areas))}
	b := slices.Clone(bytesOf(&c))
	for _, a := range areas {
		b = append(b, bytesOf(&a)...)
	}
	return b
}

func typeCap(kind, subkind uint32) []byte {
	return bytesOf(&vfio.TypeCap{Header: vfio.CapHeader{ID: vfio.RegionCapType, Version: 1}, Type: kind, Subtype: subkind})
}

func mappableCap() []byte {
	return bytesOf(&vfio.CapHeader{ID: vfio.RegionCapMSIXMappable, Version: 1})
}

func TestParseRegion(t *testing.T) {
	for name, test := range map[string]struct {
		raw  []byte
		want regionCaps
	}{
		"none":          {region(0x4000), regionCaps{}},
		"MSI-X":         {region(0x4000, mappableCap()), regionCaps{msixMappable: true}},
		"unknown":       {region(0x4000, bytesOf(&vfio.CapHeader{ID: 99}), mappableCap()), regionCaps{msixMappable: true}},
		"type":          {region(0x4000, typeCap(0x80008086, 1)), regionCaps{kind: 0x80008086, subkind: 1}},
		"nothing":       {region(0x4000, sparse()), regionCaps{sparse: true}},
		"out of order":  {region(0x4000, sparse(vfio.SparseMmapArea{Offset: 0x3000, Size: 0x1000}, vfio.SparseMmapArea{Size: 0x1000})), regionCaps{sparse: true, areas: []Area{{0, 0x1000}, {0x3000, 0x1000}}}},
		"empty area":    {region(0x4000, sparse(vfio.SparseMmapArea{Offset: 0x4000})), regionCaps{sparse: true}},
		"all of a kind": {region(0x4000, mappableCap(), typeCap(1, 2), sparse(vfio.SparseMmapArea{Size: 0x4000})), regionCaps{sparse: true, areas: []Area{{0, 0x4000}}, msixMappable: true, kind: 1, subkind: 2}},
	} {
		_, got, err := parseRegion(test.raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(regionCaps{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRegionRefuses(t *testing.T) {
	loop := region(0x4000, mappableCap(), mappableCap())
	copy(loop[sizeOf[vfio.RegionInfo]()+8:], bytesOf(&vfio.CapHeader{ID: vfio.RegionCapMSIXMappable, Next: uint32(sizeOf[vfio.RegionInfo]())}))
	outside := region(0x4000, mappableCap())
	copy(outside[sizeOf[vfio.RegionInfo]():], bytesOf(&vfio.CapHeader{ID: 9, Next: 5000}))
	inside := region(0x4000, mappableCap())
	copy(inside[sizeOf[vfio.RegionInfo]():], bytesOf(&vfio.CapHeader{ID: 9, Next: 8}))
	many := sparse(vfio.SparseMmapArea{Size: 0x1000})
	copy(many, bytesOf(&vfio.SparseMmapCap{Header: vfio.CapHeader{ID: vfio.RegionCapSparseMmap}, NumAreas: 1 << 28}))
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"loop":      {loop, "loop"},
		"outside":   {outside, "offset 5000"},
		"in header": {inside, "offset 8"},
		"cut":       {region(0x4000, mappableCap())[:sizeOf[vfio.RegionInfo]()+4], "needed"},
		"cut type":  {region(0x4000, typeCap(1, 2)[:8]), "needed"},
		"too many":  {region(0x4000, many), "268435456 elements"},
		"overlap":   {region(0x4000, sparse(vfio.SparseMmapArea{Size: 0x2000}, vfio.SparseMmapArea{Offset: 0x1000, Size: 0x1000})), "overlap"},
		"too long":  {region(0x4000, sparse(vfio.SparseMmapArea{Offset: 0x1000, Size: 0x4000})), "area of 0x4000"},
		"wraps":     {region(0x4000, sparse(vfio.SparseMmapArea{Offset: 0x1000, Size: 1<<64 - 1})), "area of"},
		"too big":   {region(1<<63 + 1), "offset"},
		"short":     {make([]byte, 8), "needed"},
	} {
		_, _, err := parseRegion(test.raw)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestParseIOMMUInfoRefuses(t *testing.T) {
	info := vfio.IOMMUInfo{Flags: vfio.IOMMUInfoCaps, CapOffset: uint32(sizeOf[vfio.IOMMUInfo]())}
	ranges := func(n uint32, r ...vfio.IOVARange) []byte {
		c := vfio.IOVARangeCap{Header: vfio.CapHeader{ID: vfio.IOMMUCapIOVARange}, NumRanges: n}
		b := slices.Clone(bytesOf(&c))
		for _, r := range r {
			b = append(b, bytesOf(&r)...)
		}
		return chain(bytesOf(&info), b)
	}
	for name, raw := range map[string][]byte{
		"too many":     ranges(2, vfio.IOVARange{End: 4095}),
		"out of order": ranges(2, vfio.IOVARange{Start: 8192, End: 9000}, vfio.IOVARange{End: 4095}),
		"backwards":    ranges(1, vfio.IOVARange{Start: 8192, End: 4095}),
		"short":        make([]byte, 12),
	} {
		if l, err := parseIOMMUInfo(raw); err == nil {
			t.Errorf("%s: no error, %+v", name, l)
		}
	}
}

func FuzzRegionInfo(f *testing.F) {
	f.Add(region(0x4000))
	f.Add(region(0x4000, mappableCap(), typeCap(1, 2), sparse(vfio.SparseMmapArea{Size: 0x1000}, vfio.SparseMmapArea{Offset: 0x2000, Size: 0x2000})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, caps, err := parseRegion(raw)
		if err != nil {
			return
		}
		end := uint64(0)
		for _, a := range caps.areas {
			if a.Size == 0 || a.Offset < end || a.Offset+a.Size > info.Size || a.Offset+a.Size < a.Offset {
				t.Fatalf("areas %+v of %#x bytes", caps.areas, info.Size)
			}
			end = a.Offset + a.Size
		}
	})
}

func FuzzIOMMUInfo(f *testing.F) {
	avail := vfio.DMAAvailCap{Header: vfio.CapHeader{ID: vfio.IOMMUCapDMAAvail}, Avail: 5}
	ranges := vfio.IOVARangeCap{Header: vfio.CapHeader{ID: vfio.IOMMUCapIOVARange}, NumRanges: 1}
	info := vfio.IOMMUInfo{Flags: 3, PageSizes: 4096, CapOffset: uint32(sizeOf[vfio.IOMMUInfo]())}
	f.Add(chain(bytesOf(&info), bytesOf(&avail), append(bytesOf(&ranges), bytesOf(&vfio.IOVARange{End: 1 << 30})...)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseIOMMUInfo(raw)
		if err != nil {
			return
		}
		if l.Alignment == 0 || l.Alignment&(l.Alignment-1) != 0 {
			t.Fatalf("alignment %#x", l.Alignment)
		}
		for i, r := range l.Ranges {
			if r.Last < r.Start || i > 0 && r.Start <= l.Ranges[i-1].Last {
				t.Fatalf("ranges %v", l.Ranges)
			}
		}
	})
}

func FuzzHotResetInfo(f *testing.F) {
	f.Add(slices.Concat(bytesOf(&vfio.HotResetInfo{Flags: 3, Count: 1}), bytesOf(&vfio.DependentDevice{ID: 1, Bus: 2, DevFn: 9})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseHotReset(raw)
		if err == nil && len(r.Devices) > len(raw)/sizeOf[vfio.DependentDevice]() {
			t.Fatalf("%d devices in %d bytes", len(r.Devices), len(raw))
		}
	})
}

func FuzzIRQInfo(f *testing.F) {
	f.Add(bytesOf(&vfio.IRQInfo{Flags: 9, Index: 2, Count: 2048}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if i, err := parseIRQ(raw); err == nil && (i.Count < 0 || i.Count > 2048) {
			t.Fatalf("%d vectors", i.Count)
		}
	})
}
