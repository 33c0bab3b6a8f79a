package kvm

import (
	"math/bits"
	"slices"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// CPUIDOptions says for which vCPU of which VM GuestCPUID is.
type CPUIDOptions struct {
	VCPU  int // its APIC ID, 0 to VCPUs-1
	VCPUs int // of the VM: cores of one package, a thread each
	// TSCDeadline offers the local APIC timer's deadline mode (Capability TSCDeadlineTimer).
	TSCDeadline bool
	// HidePMU hides the performance counters. KVM demands it of no VM, but a guest would find
	// counters that do not count (VM.LacksPMU).
	HidePMU bool
}

// CPUID leaves, and bits in them by number (Intel SDM 2A, CPUID; AMD APM 3, appendix E).
const (
	leafFeatures    = 0x1
	leafCacheIntel  = 0x4
	leafExtFeatures = 0x7
	leafTopology    = 0xb
	leafXSave       = 0xd
	leafTopologyV2  = 0x1f
	leafAMDFeatures = 0x80000001
	leafAMDSizes    = 0x80000008
	leafAMDCache    = 0x8000001d
	leafAMDTopology = 0x8000001e
	leafAMDTopoV2   = 0x80000026

	bitTSCDeadline = 24 // leaf 1 ECX
	bitXSave       = 26
	bitHypervisor  = 31
	bitHTT         = 28 // leaf 1 EDX
	bitCmpLegacy   = 1  // leaf 0x80000001 ECX
)

// GuestCPUID turns what SupportedCPUID returned into what vCPU o.VCPU is to see: its own
// APIC ID, a topology of o.VCPUs cores, the hypervisor bit. Extended state that contradicts
// itself is hidden with the features that need it (see xsave.go). It is pure: the argument
// stays as it is.
//
// Asynchronous page faults are hidden. Linux enables them while the local APIC of a kernel that
// no firmware has started is still disabled: KVM before Linux 5.13 then loses the interrupt that
// ends the first fault, and the vCPU spins in HLT for ever. Nested guests have hung with them too.
// Without the feature KVM itself halts a vCPU that waits for a page.
func GuestCPUID(supported []CPUIDEntry, o CPUIDOptions) []CPUIDEntry {
	o.VCPUs = max(o.VCPUs, 1)
	entries := slices.DeleteFunc(slices.Clone(supported), func(e CPUIDEntry) bool {
		// The host's topology. Linux falls back from the newer leaves to those set here.
		return e.Function == leafTopology || e.Function == leafTopologyV2 || e.Function == leafAMDTopoV2
	})
	for i := range entries {
		o.edit(&entries[i])
	}
	if maxLeaf(entries) >= leafTopology {
		entries = append(entries, o.topology()...)
	}
	return fixXSave(entries)
}

// defaultPhysicalBits is what CPUs have that do not tell.
const defaultPhysicalBits = 36

// PhysicalBits returns the width in bits of the addresses that the CPU's memory has.
func PhysicalBits(entries []CPUIDEntry) int {
	for _, e := range entries {
		if e.Function == leafAMDSizes && e.Eax&0xff != 0 {
			return int(e.Eax & 0xff)
		}
	}
	return defaultPhysicalBits
}

// maxLeaf returns the highest basic leaf.
func maxLeaf(entries []CPUIDEntry) uint32 {
	if e := find(entries, 0, 0); e != nil {
		return e.Eax
	}
	return 0
}

// idBits is the width of the APIC IDs of the package's cores.
func (o CPUIDOptions) idBits() int { return bits.Len(uint(o.VCPUs - 1)) }

func (o CPUIDOptions) edit(e *CPUIDEntry) {
	if o.HidePMU {
		hidePMU(e)
	}
	switch e.Function {
	case leafFeatures:
		o.editFeatures(e)
	case leafCacheIntel, leafAMDCache:
		o.editCache(e)
	case leafAMDFeatures:
		setBit(&e.Ecx, bitCmpLegacy, o.VCPUs > 1 && e.Ecx&(1<<bitCmpLegacy) != 0)
	case leafAMDSizes:
		// ECX 7:0 cores - 1, 15:12 width of APIC IDs.
		e.Ecx = e.Ecx&^0xf0ff | uint32(min(o.VCPUs-1, 0xff)) | uint32(o.idBits())<<12
	case leafAMDTopology:
		// APIC ID; core ID and one thread per core; node 0 of 1.
		e.Eax, e.Ebx, e.Ecx = uint32(o.VCPU), uint32(o.VCPU)&0xff, 0
	case uapi.CPUIDFeatures:
		e.Eax &^= 1<<uapi.FeatureAsyncPF | 1<<uapi.FeatureAsyncPFVMExit | 1<<uapi.FeatureAsyncPFInt
	}
}

func (o CPUIDOptions) editFeatures(e *CPUIDEntry) {
	// EBX 31:24 initial APIC ID, 23:16 IDs in the package, a power of two.
	ids := min(1<<o.idBits(), 0xff)
	e.Ebx = e.Ebx&0xffff | uint32(ids)<<16 | uint32(o.VCPU)<<24
	setBit(&e.Ecx, bitHypervisor, true)
	setBit(&e.Ecx, bitTSCDeadline, o.TSCDeadline)
	setBit(&e.Edx, bitHTT, o.VCPUs > 1)
}

// editCache makes caches below level 3 a core's own and those above the package's. EAX
// 7:5 level, 25:14 IDs that share the cache - 1, 31:26 (Intel) cores in the package - 1.
func (o CPUIDOptions) editCache(e *CPUIDEntry) {
	const kind, level, sharing, cores = 0x1f, 0x7 << 5, 0xfff << 14, 0x3f << 26
	if e.Eax&kind == 0 {
		return // no cache here
	}
	ids := uint32(1)<<o.idBits() - 1
	e.Eax &^= sharing
	if e.Eax&level >= 3<<5 {
		e.Eax |= min(ids, 0xfff) << 14
	}
	if e.Function == leafCacheIntel {
		e.Eax = e.Eax&^cores | min(ids, 0x3f)<<26
	}
}

// topology returns leaf 0xb: EAX shift to the next level, EBX logical CPUs at this level,
// ECX sub-leaf and kind (1 thread, 2 core), EDX x2APIC ID.
func (o CPUIDOptions) topology() []CPUIDEntry {
	id := uint32(o.VCPU)
	leaf := func(index, shift, cpus, kind uint32) CPUIDEntry {
		return CPUIDEntry{
			Function: leafTopology, Index: index, Flags: uapi.CPUIDSignificantIdx,
			Eax: shift, Ebx: cpus, Ecx: kind<<8 | index, Edx: id,
		}
	}
	return []CPUIDEntry{
		leaf(0, 0, 1, 1),
		leaf(1, uint32(o.idBits()), uint32(o.VCPUs), 2),
		leaf(2, 0, 0, 0),
	}
}

func find(entries []CPUIDEntry, function, index uint32) *CPUIDEntry {
	for i := range entries {
		e := &entries[i]
		if e.Function != function {
			continue
		}
		if e.Flags&uapi.CPUIDSignificantIdx == 0 || e.Index == index {
			return e
		}
	}
	return nil
}

func setBit(word *uint32, bit int, on bool) {
	*word &^= 1 << bit
	if on {
		*word |= 1 << bit
	}
}
