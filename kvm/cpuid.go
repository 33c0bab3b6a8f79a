package kvm

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// CPUIDEntry is one leaf, or one sub-leaf, of CPUID. It has a sub-leaf where Flags has
// bit 0 (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
type CPUIDEntry = uapi.CPUIDEntry

// maxCPUIDEntries bounds how far SupportedCPUID grows its buffer; KVM takes 256.
const maxCPUIDEntries = 1024

// SupportedCPUID returns what the host and KVM can give a guest. It is the host CPU's view
// in places (topology, APIC IDs), so it goes through GuestCPUID before a vCPU gets it.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	for n := 128; n <= maxCPUIDEntries; n *= 2 {
		buf := list(make([]CPUIDEntry, n))
		_, err := sys.IoctlBytes(s.fd, uapi.GetSupportedCPUID, buf)
		if err == nil {
			return unlist[CPUIDEntry](buf), nil
		}
		if !errors.Is(err, syscall.E2BIG) {
			return nil, fmt.Errorf("get supported CPUID: %w", err)
		}
	}
	return nil, fmt.Errorf("get supported CPUID: more than %d entries", maxCPUIDEntries)
}

// SetCPUID sets what the guest sees. It comes before all other state, which KVM compares with
// it, and before the vCPU first runs.
//
// It also sets XCR0 to all components that entries offer, where a CPU after reset has
// x87 only. A guest sets XCR0 before it uses it, so on most hosts this changes nothing. But
// the SVM that QEMU 7.2 emulates does not intercept XSETBV: KVM never learns of the guest's
// XCR0, tells the size of the XSAVE area for the initial one, and puts that back on each
// entry. Linux 7.1 then finds "size 2696 != kernel_size 576" and crashes.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if _, err := sys.IoctlBytes(c.fd, uapi.SetCPUID2, list(entries)); err != nil {
		return fmt.Errorf("set %d CPUID entries of vCPU %d: %w", len(entries), c.id, err)
	}
	c.described = true
	xcr0 := initialXCR0(entries)
	if xcr0 == 0 {
		return nil
	}
	xcrs := &XCRs{NrXRCS: 1}
	xcrs.Registers[0].Value = xcr0
	return c.SetXCRs(xcrs)
}

// CPUID returns what the guest sees. KVM changes some of what was set: bits that follow
// CR4 and the APIC base, and the XSAVE sizes, which follow XCR0.
func (c *VCPU) CPUID() ([]CPUIDEntry, error) {
	buf := list(make([]CPUIDEntry, maxCPUIDEntries))
	if _, err := sys.IoctlBytes(c.fd, uapi.GetCPUID2, buf); err != nil {
		return nil, fmt.Errorf("get CPUID of vCPU %d: %w", c.id, err)
	}
	return unlist[CPUIDEntry](buf), nil
}
