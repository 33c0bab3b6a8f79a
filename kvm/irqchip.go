package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Pins is the number of pins of the I/O APIC: GSIs below it are wired, see Routing.
const Pins = uapi.IOAPICPins

// CreateIRQChip makes the in-kernel PICs, I/O APIC and, for vCPUs created after, local
// APICs. Memory slots should be there before (see the package comment).
func (vm *VM) CreateIRQChip() error {
	if _, err := vm.fd.Ioctl(uapi.CreateIRQChip, 0); err != nil {
		return fmt.Errorf("create interrupt controllers: %w", err)
	}
	return nil
}

// CreatePIT2 makes the in-kernel i8254 timer on GSI 0. With dummySpeaker the kernel answers
// port 0x61 too, which guests read to calibrate. It needs CreateIRQChip.
func (vm *VM) CreatePIT2(dummySpeaker bool) error {
	config := uapi.PITConfig{}
	if dummySpeaker {
		config.Flags = uapi.PITSpeakerDummy
	}
	if _, err := sys.IoctlPtr(vm.fd, uapi.CreatePIT2, &config); err != nil {
		return fmt.Errorf("create PIT: %w", err)
	}
	return nil
}

// LoseTicks lets the timer of CreatePIT2 drop ticks that the guest does not take in time, where KVM would deliver
// them later. A KVM that refuses only makes interrupts cost more. The call waits for two grace periods of the kernel, up to
// 15 ms each, with the timer's lock held: a vCPU that has moved to another CPU of the host waits for that lock in KVM_RUN.
func (vm *VM) LoseTicks() {
	if vm.CheckExtension(uapi.CapReinjectControl) > 0 {
		_, _ = sys.IoctlPtr(vm.fd, uapi.SetReinjection, &uapi.ReinjectControl{})
	}
}

// UsesAVIC reports whether KVM uses AMD's virtual APIC, sysfs being the root of /sys. With it KVM can't see
// the end of an interrupt, so that it does without where it has to deliver ticks later: LoseTicks pays there. Intel's
// shows it.
func UsesAVIC(sysfs fs.FS) bool {
	avic, err := fs.ReadFile(sysfs, "module/kvm_amd/parameters/avic")
	on := strings.TrimSpace(string(avic))
	return err == nil && (on == "Y" || on == "1")
}

// IRQLine sets the level of a wired GSI. An edge is two calls.
func (vm *VM) IRQLine(gsi uint32, level bool) error {
	line := uapi.IRQLevel{IRQ: gsi}
	if level {
		line.Level = 1
	}
	if _, err := sys.IoctlPtr(vm.fd, uapi.IRQLine, &line); err != nil {
		return fmt.Errorf("set GSI %d to %d: %w", gsi, line.Level, err)
	}
	return nil
}

// MSI is a message-signalled interrupt as a device sends it.
type MSI struct {
	Address uint64 // guest-physical
	Data    uint32
}

// SignalMSI sends m once. It reports whether a vCPU took it; a guest that masks it, or names a CPU
// that is not there, is no error.
func (vm *VM) SignalMSI(m MSI) (delivered bool, err error) {
	msi := uapi.MSI{AddressLo: uint32(m.Address), AddressHi: uint32(m.Address >> 32), Data: m.Data}
	n, err := sys.IoctlPtr(vm.fd, uapi.SignalMSI, &msi)
	if errors.Is(err, syscall.EPERM) { // how KVM says that no local APIC matches
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("signal MSI %#x, data %#x: %w", m.Address, m.Data, err)
	}
	return n > 0, nil
}

// IRQChip names one of the in-kernel interrupt controllers.
type IRQChip uint32

// The interrupt controllers.
const (
	PICMaster IRQChip = uapi.ChipPICMaster
	PICSlave  IRQChip = uapi.ChipPICSlave
	IOAPIC    IRQChip = uapi.ChipIOAPIC
)

// IRQChipState is an interrupt controller's state; Chip is struct kvm_pic_state or
// kvm_ioapic_state.
type IRQChipState = uapi.IRQChip

// IRQChip reads an interrupt controller's state.
func (vm *VM) IRQChip(chip IRQChip) (*IRQChipState, error) {
	state := &IRQChipState{ChipID: uint32(chip)}
	if _, err := sys.IoctlPtr(vm.fd, uapi.GetIRQChip, state); err != nil {
		return nil, fmt.Errorf("get state of interrupt controller %d: %w", chip, err)
	}
	return state, nil
}

// SetIRQChip writes the state of the interrupt controller that state names.
func (vm *VM) SetIRQChip(state *IRQChipState) error {
	if _, err := sys.IoctlPtr(vm.fd, uapi.SetIRQChip, state); err != nil {
		return fmt.Errorf("set state of interrupt controller %d: %w", state.ChipID, err)
	}
	return nil
}

// PITState is the in-kernel timer's state.
type PITState = uapi.PITState2

// PIT2 reads the timer's state.
func (vm *VM) PIT2() (*PITState, error) {
	state := &PITState{}
	if _, err := sys.IoctlPtr(vm.fd, uapi.GetPIT2, state); err != nil {
		return nil, fmt.Errorf("get state of PIT: %w", err)
	}
	return state, nil
}

// SetPIT2 writes the timer's state.
func (vm *VM) SetPIT2(state *PITState) error {
	if _, err := sys.IoctlPtr(vm.fd, uapi.SetPIT2, state); err != nil {
		return fmt.Errorf("set state of PIT: %w", err)
	}
	return nil
}
