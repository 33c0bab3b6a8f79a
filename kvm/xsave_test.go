package kvm

import (
	"slices"
	"testing"
)

// xsaveHost returns the entries of a host with XSAVE and all features that need components.
func xsaveHost(leaf0d ...CPUIDEntry) []CPUIDEntry {
	const all = 0xffffffff
	return append([]CPUIDEntry{
		leaf(0, 0, 0xd, 0, 0, 0),
		leaf(leafFeatures, 0, 0, 0, all, all),
		leaf(leafExtFeatures, 0, 1, all, all, all),
		leaf(leafExtFeatures, 1, all, all, all, all),
		leaf(leafAMDFeatures, 0, 0, 0, all, all),
	}, leaf0d...)
}

func xleaf(index, eax, ebx, ecx uint32) CPUIDEntry { return leaf(leafXSave, index, eax, ebx, ecx, 0) }

func TestFixXSave(t *testing.T) {
	avx, pku := xleaf(2, 256, 576, 0), xleaf(9, 8, 2688, 0)
	avx512 := []CPUIDEntry{xleaf(5, 64, 1088, 0), xleaf(6, 512, 1152, 0), xleaf(7, 1024, 1664, 0)}
	with := func(entries ...[]CPUIDEntry) []CPUIDEntry { return slices.Concat(entries...) }
	one := func(entries ...CPUIDEntry) []CPUIDEntry { return entries }
	type sizes struct{ mask, standard, compacted uint32 }
	tests := map[string]struct {
		leaf0d []CPUIDEntry
		want   sizes
	}{
		// As kvm-amd under QEMU 7.2 gives it: right, but the totals belong to XCR0.
		"QEMU 7.2": {one(xleaf(0, 0x207, 2696, 2696), xleaf(1, 5, 0, 0), avx, pku), sizes{0x207, 2696, 0}},
		"Skylake": {with(one(xleaf(0, 0x2e7, 2696, 2696), xleaf(1, 0xf, 2440, 0), avx), avx512, one(pku)),
			sizes{0x2e7, 2696, 2440}},
		"compacted with alignment": {one(xleaf(0, 0x207, 2696, 2696), xleaf(1, 0xf, 1, 0), avx, xleaf(9, 8, 2688, 2)),
			sizes{0x207, 2696, 840}},
		"totals wrong": {one(xleaf(0, 0x207, 576, 832), xleaf(1, 0xf, 576, 0), avx, pku), sizes{0x207, 2696, 840}},
		"size of PKU wrong": {one(xleaf(0, 0x207, 2696, 2696), xleaf(1, 5, 0, 0), avx, xleaf(9, 64, 2688, 0)),
			sizes{0x7, 832, 0}},
		"sub-leaf of PKU absent": {one(xleaf(0, 0x207, 2696, 2696), xleaf(1, 5, 0, 0), avx), sizes{0x7, 832, 0}},
		"half of AVX-512": {with(one(xleaf(0, 0x267, 2696, 2696), xleaf(1, 5, 0, 0), avx), avx512[:2], one(pku)),
			sizes{0x207, 2696, 0}},
		"AVX-512 without AVX": {with(one(xleaf(0, 0x2e7, 2696, 2696), xleaf(1, 5, 0, 0), xleaf(2, 128, 576, 0)), avx512, one(pku)),
			sizes{0x203, 2696, 0}},
		"overlap":       {one(xleaf(0, 0x207, 2696, 2696), xleaf(1, 5, 0, 0), avx, xleaf(9, 8, 600, 0)), sizes{0x7, 832, 0}},
		"in the header": {one(xleaf(0, 0x7, 832, 832), xleaf(1, 5, 0, 0), xleaf(2, 256, 512, 0)), sizes{0x3, 576, 0}},
		"supervisor": {one(xleaf(0, 0x7, 832, 832), xleaf(1, 0xf, 832, 1<<11|1<<12), avx, xleaf(11, 16, 0, 1), xleaf(12, 24, 0, 1)),
			sizes{0x7, 832, 872}},
		"supervisor without XSAVES": {one(xleaf(0, 0x7, 832, 832), xleaf(1, 5, 0, 1<<11), avx, xleaf(11, 16, 0, 1)),
			sizes{0x7, 832, 0}},
		"huge size": {one(xleaf(0, 0x80000007, 832, 832), xleaf(1, 5, 0, 0), avx, xleaf(31, 0xffffffff, 576, 0)),
			sizes{0x7, 832, 0}},
		"no SSE": {one(xleaf(0, 0x205, 2696, 2696), xleaf(1, 5, 0, 0), avx, pku), sizes{}},
		"none":   {nil, sizes{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := fixXSave(xsaveHost(test.leaf0d...))
			if test.want.mask == 0 {
				if find(got, leafXSave, 0) != nil || must(t, got, leafFeatures, 0).Ecx&(1<<bitXSave) != 0 {
					t.Error("XSAVE is still there")
				}
			} else {
				main, ext := must(t, got, leafXSave, 0), must(t, got, leafXSave, 1)
				have := sizes{main.Eax, main.Ecx, ext.Ebx}
				if have != test.want || main.Ebx != main.Ecx {
					t.Errorf("got %+v, EBX %d; want %+v", have, main.Ebx, test.want)
				}
			}
			consistent(t, got)
		})
	}
}

// consistent checks what Linux checks: each offered component has a sub-leaf, and no
// feature is offered without its components.
func consistent(t *testing.T, entries []CPUIDEntry) {
	t.Helper()
	var offered uint64
	if find(entries, leafXSave, 0) != nil {
		user, supervisor := componentMasks(entries)
		offered = user | supervisor
	}
	for i := range uint32(64) {
		has := i >= componentAVX && find(entries, leafXSave, i) != nil
		if want := i >= componentAVX && offered>>i&1 == 1; has != want {
			t.Errorf("component %d: sub-leaf %v, offered %v", i, has, want)
		}
	}
	for _, f := range dependentFeatures {
		e := must(t, entries, f.leaf, f.index)
		for _, bit := range f.bits {
			if *f.register(&e)>>bit&1 == 1 && offered&f.needs != f.needs {
				t.Errorf("leaf %#x, %d bit %d is set without components %#x", f.leaf, f.index, bit, f.needs)
			}
		}
	}
}

func TestFixXSaveKeepsFeaturesWithComponents(t *testing.T) {
	got := fixXSave(xsaveHost(xleaf(0, 0x207, 2696, 2696), xleaf(1, 5, 0, 0), xleaf(2, 256, 576, 0), xleaf(9, 8, 2688, 0)))
	if e := must(t, got, leafFeatures, 0); e.Ecx&(1<<28) == 0 {
		t.Error("AVX is gone")
	}
	if e := must(t, got, leafExtFeatures, 0); e.Ecx&(1<<3) == 0 || e.Ebx&(1<<5) == 0 {
		t.Error("PKU or AVX2 is gone")
	}
}

func FuzzGuestCPUID(f *testing.F) {
	f.Add(uint32(0x207), uint32(5), uint32(0), uint32(256), uint32(576), uint32(8), uint32(2688), uint32(0), 1, 2)
	f.Add(uint32(0xffffffff), uint32(0xf), uint32(0x1800), uint32(256), uint32(0xfffffff0), uint32(0xffffffff), uint32(0), uint32(3), -1, -5)
	f.Fuzz(func(t *testing.T, mask, ext, xss, size2, at2, size9, at9, flags uint32, id, n int) {
		host := xsaveHost(xleaf(0, mask, 0, 0), leaf(leafXSave, 1, ext, 0, xss, 0), xleaf(2, size2, at2, flags),
			xleaf(9, size9, at9, flags), xleaf(11, 16, 0, flags))
		got := GuestCPUID(host, CPUIDOptions{VCPU: id, VCPUs: n})
		consistent(t, got)
	})
}
