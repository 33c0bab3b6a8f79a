package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// MemoryFlags change what a memory slot does.
type MemoryFlags uint32

const (
	// LogDirty makes KVM note which pages the guest writes.
	LogDirty MemoryFlags = uapi.MemLogDirtyPages
	// ReadOnly turns the guest's writes into MMIO exits.
	ReadOnly MemoryFlags = uapi.MemReadonly
)

// MemorySlot is a span of host memory that the guest sees. Addresses and Size are
// multiples of the page size.
type MemorySlot struct {
	Slot  uint32
	GPA   uint64      // first guest-physical address
	Size  uint64      // bytes
	Host  uintptr     // first host virtual address; mapped for as long as the slot is set
	Flags MemoryFlags // ReadOnly, LogDirty
}

// SetMemorySlot adds a slot, or changes the GPA or LogDirty of the one with that number.
// It returns when no vCPU uses the old state any more. Overlap with another slot is
// EEXIST; a change of Size or Host EINVAL: remove the slot first.
func (vm *VM) SetMemorySlot(m MemorySlot) error {
	region := uapi.MemoryRegion{
		Slot:          m.Slot,
		Flags:         uint32(m.Flags),
		GuestPhysAddr: m.GPA,
		MemorySize:    m.Size,
		UserspaceAddr: uint64(m.Host),
	}
	vm.calls.add(callSlot)
	if _, err := sys.IoctlPtr(vm.fd, uapi.SetUserMemoryRegion, &region); err != nil {
		return fmt.Errorf("memory slot %d, %#x bytes at guest-physical %#x: %w", m.Slot, m.Size, m.GPA, err)
	}
	return nil
}

// RemoveMemorySlot takes the slot from the guest. The host memory may be unmapped after. After Retire
// it does nothing.
func (vm *VM) RemoveMemorySlot(slot uint32) error {
	if vm.retired.Load() {
		return nil
	}
	return vm.SetMemorySlot(MemorySlot{Slot: slot})
}

// DirtyLog fills bitmap with a bit per page of the slot, set if the guest wrote the page
// since the last call. The bitmap has a word per 64 pages, rounded up. Bits of pages that
// were only read may be set too.
func (vm *VM) DirtyLog(slot uint32, bitmap []uint64) error {
	if len(bitmap) == 0 {
		return fmt.Errorf("dirty log of slot %d: empty bitmap", slot)
	}
	if err := dirtyLog(vm.fd, slot, bitmap); err != nil {
		return fmt.Errorf("dirty log of slot %d: %w", slot, err)
	}
	return nil
}

// SetTSSAddr tells KVM where three unused pages of guest-physical space below 4 GiB are.
// Intel hosts need them to run real mode; others take the call and ignore it.
func (vm *VM) SetTSSAddr(gpa uint64) error {
	if _, err := vm.fd.Ioctl(uapi.SetTSSAddr, uintptr(gpa)); err != nil {
		return fmt.Errorf("set TSS address %#x: %w", gpa, err)
	}
	return nil
}

// SetIdentityMapAddr tells KVM where one unused page below 4 GiB is, for the same purpose.
// It must come before the first vCPU.
func (vm *VM) SetIdentityMapAddr(gpa uint64) error {
	if _, err := sys.IoctlPtr(vm.fd, uapi.SetIdentityMapAddr, &gpa); err != nil {
		return fmt.Errorf("set identity map address %#x: %w", gpa, err)
	}
	return nil
}
