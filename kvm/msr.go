package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// MSR is the value of a model-specific register.
type MSR = uapi.MSREntry

// MSRs reads the registers with the given numbers, in order.
func (c *VCPU) MSRs(indices ...uint32) ([]MSR, error) {
	entries := make([]MSR, len(indices))
	for i, index := range indices {
		entries[i].Index = index
	}
	buf := list(entries)
	n, err := sys.IoctlBytes(c.fd, uapi.GetMSRs, buf)
	if err != nil {
		return nil, fmt.Errorf("get MSRs of vCPU %d: %w", c.id, err)
	}
	if n < len(indices) {
		return nil, fmt.Errorf("get MSRs of vCPU %d: KVM refuses MSR %#x", c.id, indices[n])
	}
	return unlist[MSR](buf), nil
}

// SetMSRs writes registers in order. Those before a refused one are written.
func (c *VCPU) SetMSRs(entries ...MSR) error {
	n, err := sys.IoctlBytes(c.fd, uapi.SetMSRs, list(entries))
	if err != nil {
		return fmt.Errorf("set MSRs of vCPU %d: %w", c.id, err)
	}
	if n < len(entries) {
		return fmt.Errorf("set MSRs of vCPU %d: KVM refuses %#x in MSR %#x", c.id, entries[n].Data, entries[n].Index)
	}
	return nil
}
