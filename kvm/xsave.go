package kvm

import (
	"math/bits"
	"slices"
)

// Leaf 0xd lists the components of the XSAVE area (Intel SDM 1, 13.2): sub-leaf 0 which of
// them XCR0 can enable and the area's size, sub-leaf 1 the compacted format and supervisor
// components, sub-leaf i the size and place of component i. Linux computes the sizes itself
// from the sub-leaves and goes without XSAVE, or worse, if the CPU's differ
// (arch/x86/kernel/fpu/xstate.c, paranoid_xstate_size_valid).
const (
	componentX87 = 0
	componentSSE = 1
	componentAVX = 2

	xsaveLegacy = 512 // bytes: x87 and SSE
	xsaveHeader = 64  // bytes
	xsaveBase   = xsaveLegacy + xsaveHeader

	bitXSaveC = 1 // sub-leaf 1 EAX
	bitXSaveS = 3

	bitSupervisor = 0 // sub-leaf i ECX
	bitAlign64    = 1
)

// componentSize holds the sizes in bytes that the architecture fixes. That of AMX's tiles
// and of unknown components is the CPU's to choose.
var componentSize = map[int]uint32{
	2: 256, 3: 64, 4: 64, 5: 64, 6: 512, 7: 1024, 9: 8, 10: 8, 11: 16, 12: 24, 17: 64, 19: 128,
}

// componentGroups are components that make no sense without each other.
var componentGroups = []uint64{1<<3 | 1<<4, 1<<5 | 1<<6 | 1<<7, 1<<17 | 1<<18}

// dependentFeature is a feature bit that needs components.
type dependentFeature struct {
	needs    uint64 // components
	leaf     uint32
	index    uint32
	register func(*CPUIDEntry) *uint32
	bits     []int
}

func regEax(e *CPUIDEntry) *uint32 { return &e.Eax }
func regEbx(e *CPUIDEntry) *uint32 { return &e.Ebx }
func regEcx(e *CPUIDEntry) *uint32 { return &e.Ecx }
func regEdx(e *CPUIDEntry) *uint32 { return &e.Edx }

const (
	needAVX    = 1 << componentAVX
	needMPX    = 1<<3 | 1<<4
	needAVX512 = 1<<5 | 1<<6 | 1<<7 | needAVX
	needPKU    = 1 << 9
	needPASID  = 1 << 10
	needCET    = 1 << 11
	needAMX    = 1<<17 | 1<<18
	needAPX    = 1 << 19
)

var dependentFeatures = []dependentFeature{
	{needAVX, leafFeatures, 0, regEcx, []int{12, 28, 29}},                           // FMA, AVX, F16C
	{needAVX, leafExtFeatures, 0, regEbx, []int{5}},                                 // AVX2
	{needAVX, leafExtFeatures, 0, regEcx, []int{9, 10}},                             // VAES, VPCLMULQDQ
	{needAVX, leafExtFeatures, 1, regEax, []int{4, 23}},                             // AVX-VNNI, AVX-IFMA
	{needAVX, leafExtFeatures, 1, regEdx, []int{4, 5, 10}},                          // AVX-VNNI-INT8, NE-CONVERT, INT16
	{needAVX, leafAMDFeatures, 0, regEcx, []int{11, 16}},                            // XOP, FMA4
	{needMPX, leafExtFeatures, 0, regEbx, []int{14}},                                // MPX
	{needAVX512, leafExtFeatures, 0, regEbx, []int{16, 17, 21, 26, 27, 28, 30, 31}}, // AVX512F and its kin
	{needAVX512, leafExtFeatures, 0, regEcx, []int{1, 6, 11, 12, 14}},
	{needAVX512, leafExtFeatures, 0, regEdx, []int{2, 3, 8, 23}},
	{needAVX512, leafExtFeatures, 1, regEax, []int{5}},       // AVX512_BF16
	{needAVX512, leafExtFeatures, 1, regEdx, []int{19}},      // AVX10
	{needPKU, leafExtFeatures, 0, regEcx, []int{3, 4}},       // PKU, OSPKE
	{needPASID, leafExtFeatures, 0, regEcx, []int{29}},       // ENQCMD
	{needCET, leafExtFeatures, 0, regEcx, []int{7}},          // shadow stack
	{needCET, leafExtFeatures, 0, regEdx, []int{20}},         // indirect branch tracking
	{needAMX, leafExtFeatures, 0, regEdx, []int{22, 24, 25}}, // AMX
	{needAMX, leafExtFeatures, 1, regEax, []int{21}},         // AMX-FP16
	{needAMX, leafExtFeatures, 1, regEdx, []int{8}},          // AMX-COMPLEX
	{needAPX, leafExtFeatures, 1, regEdx, []int{21}},         // APX
}

// fixXSave hides components that can't be as entries tell them, the features that need
// hidden ones, and XSAVE itself where nothing fits; then it sets the sizes to what the
// remaining sub-leaves add up to. Sub-leaves are dropped, not corrected: KVM, which
// computes the sizes anew when the guest sets XCR0, would go on by the host's.
func fixXSave(entries []CPUIDEntry) []CPUIDEntry {
	features, main := find(entries, leafFeatures, 0), find(entries, leafXSave, 0)
	if features == nil {
		return entries
	}
	const legacy = 1<<componentX87 | 1<<componentSSE
	if features.Ecx&(1<<bitXSave) == 0 || main == nil || main.Eax&legacy != legacy {
		features.Ecx &^= 1 << bitXSave
		entries = dropComponents(entries, ^uint64(0))
		hideFeatures(entries, 0)
		return entries
	}
	user, supervisor := componentMasks(entries)
	bad := badComponents(entries, user, supervisor)
	user, supervisor = user&^bad, supervisor&^bad
	entries = dropComponents(entries, ^(user | supervisor | legacy))
	setMasks(entries, user, supervisor)
	setSizes(entries, user, supervisor)
	hideFeatures(entries, user|supervisor)
	return entries
}

// componentMasks returns which components XCR0 and IA32_XSS can enable. Without XSAVES
// there is no IA32_XSS.
func componentMasks(entries []CPUIDEntry) (user, supervisor uint64) {
	main := find(entries, leafXSave, 0)
	user = uint64(main.Edx)<<32 | uint64(main.Eax)
	if ext := find(entries, leafXSave, 1); ext != nil && ext.Eax&(1<<bitXSaveS) != 0 {
		supervisor = uint64(ext.Edx)<<32 | uint64(ext.Ecx)
	}
	return user, supervisor
}

func setMasks(entries []CPUIDEntry, user, supervisor uint64) {
	main := find(entries, leafXSave, 0)
	main.Eax, main.Edx = uint32(user), uint32(user>>32)
	if ext := find(entries, leafXSave, 1); ext != nil {
		ext.Ecx, ext.Edx = uint32(supervisor), uint32(supervisor>>32)
	}
}

// badComponents returns the components that can't be as their sub-leaves say, and those
// that are nothing without them.
func badComponents(entries []CPUIDEntry, user, supervisor uint64) uint64 {
	bad := user & supervisor
	type span struct{ start, end uint64 }
	var spans []span
	for i := range 64 {
		bit := uint64(1) << i
		if i < componentAVX || (user|supervisor)&bit == 0 {
			continue
		}
		e := find(entries, leafXSave, uint32(i))
		if e == nil || !plausible(i, e, supervisor&bit != 0) {
			bad |= bit
			continue
		}
		if supervisor&bit != 0 {
			continue // has no place in the standard format
		}
		s := span{uint64(e.Ebx), uint64(e.Ebx) + uint64(e.Eax)}
		if slices.ContainsFunc(spans, func(o span) bool { return s.start < o.end && o.start < s.end }) {
			bad |= bit
			continue
		}
		spans = append(spans, s)
	}
	for _, group := range componentGroups {
		if present := group & (user | supervisor) &^ bad; present != group {
			bad |= present
		}
	}
	if (user&^bad)&needAVX512 != needAVX512 {
		bad |= needAVX512 &^ needAVX
	}
	return bad
}

// maxComponentSize is far above any component's, in bytes; a greater value is nonsense.
const maxComponentSize = 1 << 16

func plausible(component int, e *CPUIDEntry, supervisor bool) bool {
	if size, fixed := componentSize[component]; fixed && e.Eax != size {
		return false
	}
	if e.Eax == 0 || e.Eax > maxComponentSize || (e.Ecx&(1<<bitSupervisor) != 0) != supervisor {
		return false
	}
	return supervisor || e.Ebx >= xsaveBase && e.Ebx <= maxComponentSize*64
}

// setSizes sets the area's size: in standard format for all of XCR0, which KVM replaces by
// that for the guest's own XCR0, and in compacted format.
func setSizes(entries []CPUIDEntry, user, supervisor uint64) {
	main := find(entries, leafXSave, 0)
	main.Ecx = standardSize(entries, user)
	main.Ebx = main.Ecx
	ext := find(entries, leafXSave, 1)
	if ext == nil {
		return
	}
	ext.Ebx = 0
	if ext.Eax&(1<<bitXSaveC|1<<bitXSaveS) != 0 {
		ext.Ebx = compactedSize(entries, user|supervisor)
	}
}

func standardSize(entries []CPUIDEntry, mask uint64) uint32 {
	size := uint32(xsaveBase)
	for m := mask &^ 3; m != 0; m &= m - 1 {
		if e := find(entries, leafXSave, uint32(bits.TrailingZeros64(m))); e != nil {
			size = max(size, e.Ebx+e.Eax)
		}
	}
	return size
}

func compactedSize(entries []CPUIDEntry, mask uint64) uint32 {
	size := uint32(xsaveBase)
	for m := mask &^ 3; m != 0; m &= m - 1 {
		e := find(entries, leafXSave, uint32(bits.TrailingZeros64(m)))
		if e == nil {
			continue
		}
		if e.Ecx&(1<<bitAlign64) != 0 {
			size = (size + 63) &^ 63
		}
		size += e.Eax
	}
	return size
}

// dropComponents removes the sub-leaves of the components in mask, and the whole leaf if
// that has x87.
func dropComponents(entries []CPUIDEntry, mask uint64) []CPUIDEntry {
	return slices.DeleteFunc(entries, func(e CPUIDEntry) bool {
		if e.Function != leafXSave {
			return false
		}
		if mask&(1<<componentX87) != 0 {
			return true
		}
		return e.Index >= componentAVX && (e.Index >= 64 || mask&(1<<e.Index) != 0)
	})
}

// hideFeatures clears the feature bits that need components which are not in mask.
func hideFeatures(entries []CPUIDEntry, mask uint64) {
	for _, f := range dependentFeatures {
		if mask&f.needs == f.needs {
			continue
		}
		e := find(entries, f.leaf, f.index)
		if e == nil {
			continue
		}
		for _, bit := range f.bits {
			*f.register(e) &^= 1 << bit
		}
	}
}

// initialXCR0 is the XCR0 to start a vCPU with: all that entries offer but AMX, whose state
// hosts only allocate on demand. See VCPU.SetCPUID.
func initialXCR0(entries []CPUIDEntry) uint64 {
	features, main := find(entries, leafFeatures, 0), find(entries, leafXSave, 0)
	if features == nil || main == nil || features.Ecx&(1<<bitXSave) == 0 {
		return 0
	}
	user, _ := componentMasks(entries)
	return user &^ needAMX
}
