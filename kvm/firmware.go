package kvm

import (
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// MSRs that a PC's firmware sets, or that depend on what it loaded (Intel SDM 4; AMD's processor
// programming references).
const (
	msrMicrocode  = 0x8b
	msrMiscEnable = 0x1a0
	msrHWCR       = 0xc0010015

	miscFastString = 1 << 0  // of msrMiscEnable
	hwcrTSCFreqSel = 1 << 24 // the TSC counts with the frequency of P0
)

// FeatureMSR returns what KVM says about the host's CPU in a register that it lists as a feature
// (KVM_CAP_GET_MSR_FEATURES). It returns false where KVM lacks the register.
func (s *System) FeatureMSR(index uint32) (MSR, bool) {
	if s.Capability(uapi.CapGetMSRFeatures) == 0 {
		return MSR{}, false
	}
	buf := list([]MSR{{Index: index}})
	n, err := sys.IoctlBytes(s.fd, uapi.GetMSRs, buf)
	if err != nil || n < 1 {
		return MSR{}, false
	}
	return unlist[MSR](buf)[0], true
}

// SetFirmwareMSRs gives the vCPU what firmware leaves in model-specific registers of a CPU with
// this CPUID, and KVM does not set:
//
//   - the host's microcode revision. By the one that KVM makes up, Linux takes CPUs for unpatched and
//     hides features: RDSEED of AMD's Zen 5, XSAVES of Zen 1 and 2.
//   - fast strings. Without the bit Linux clears REP_GOOD and ERMS of Intel's CPUs.
//   - AMD's HWCR.TscFreqSel. Linux calls the firmware faulty without it.
//
// A KVM that refuses one of them leaves it as it is: guests run without. It comes after SetCPUID and
// before the vCPU first runs.
func (c *VCPU) SetFirmwareMSRs(s *System, entries []CPUIDEntry) {
	if m, ok := s.FeatureMSR(msrMicrocode); ok {
		_ = c.SetMSRs(m)
	}
	if isAMD(entries) {
		c.setMSRBits(msrHWCR, hwcrTSCFreqSel)
	} else {
		c.setMSRBits(msrMiscEnable, miscFastString)
	}
}

// setMSRBits sets bits of a register, if KVM has it and takes them.
func (c *VCPU) setMSRBits(index uint32, bits uint64) {
	now, err := c.MSRs(index)
	if err != nil {
		return
	}
	_ = c.SetMSRs(MSR{Index: index, Data: now[0].Data | bits})
}

// isAMD reports whether the CPU is AMD's, or Hygon's, which are of the same design.
func isAMD(entries []CPUIDEntry) bool {
	e := find(entries, 0, 0)
	if e == nil {
		return false
	}
	vendor := [3]uint32{e.Ebx, e.Edx, e.Ecx}
	amd := [3]uint32{0x68747541, 0x69746e65, 0x444d4163}   // AuthenticAMD
	hygon := [3]uint32{0x6f677948, 0x6e65476e, 0x656e6975} // HygonGenuine
	return vendor == amd || vendor == hygon
}
