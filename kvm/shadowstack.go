package kvm

import (
	"errors"
	"fmt"
	"syscall"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// singleRegisters is a vCPU as far as single registers go (KVM_GET_ONE_REG, KVM_SET_ONE_REG).
type singleRegisters interface {
	oneReg(request uintptr, id uint64, value *uint64) error
}

// shadowStack reads the shadow stack pointer (CET), which is no MSR and in no other state that KVM
// gives. It returns nil where KVM or the vCPU has none: before Linux 6.18, or without the CPU's feature.
func shadowStack(r singleRegisters) (*uint64, error) {
	var pointer uint64
	err := r.oneReg(uapi.GetOneReg, uapi.RegGuestSSP, &pointer)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTTY) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get shadow stack pointer: %w", err)
	}
	return &pointer, nil
}

// setShadowStack writes back what shadowStack has read.
func setShadowStack(r singleRegisters, pointer *uint64) error {
	if pointer == nil {
		return nil
	}
	value := *pointer
	if err := r.oneReg(uapi.SetOneReg, uapi.RegGuestSSP, &value); err != nil {
		return fmt.Errorf("set shadow stack pointer to %#x: %w", value, err)
	}
	return nil
}
