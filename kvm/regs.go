package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Register state as KVM lays it out.
type (
	Regs       = uapi.Regs
	Sregs      = uapi.Sregs
	Segment    = uapi.Segment
	Descriptor = uapi.Descriptor
	FPU        = uapi.FPU
	XCRs       = uapi.XCRs
	DebugRegs  = uapi.DebugRegs
	LAPIC      = uapi.LAPICState
	VCPUEvents = uapi.VCPUEvents
)

// MPState is where a vCPU is in its life.
type MPState uint32

// The states.
const (
	Runnable      MPState = uapi.MPStateRunnable
	Uninitialized MPState = uapi.MPStateUninitialized // waits for INIT
	InitReceived  MPState = uapi.MPStateInitReceived  // waits for SIPI
	Halted        MPState = uapi.MPStateHalted
)

func get[T any](c *VCPU, request uintptr, what string) (*T, error) {
	v := new(T)
	if _, err := sys.IoctlPtr(c.fd, request, v); err != nil {
		return nil, fmt.Errorf("get %s of vCPU %d: %w", what, c.id, err)
	}
	return v, nil
}

func set[T any](c *VCPU, request uintptr, what string, v *T) error {
	if _, err := sys.IoctlPtr(c.fd, request, v); err != nil {
		return fmt.Errorf("set %s of vCPU %d: %w", what, c.id, err)
	}
	return nil
}

// Regs returns the general registers. After an exit for an access that is not answered
// yet, RIP may still be at its instruction.
func (c *VCPU) Regs() (*Regs, error) { return get[Regs](c, uapi.GetRegs, "registers") }

// SetRegs sets the general registers.
func (c *VCPU) SetRegs(v *Regs) error { return set(c, uapi.SetRegs, "registers", v) }

// Sregs returns segments, control registers, EFER and the APIC base.
func (c *VCPU) Sregs() (*Sregs, error) { return get[Sregs](c, uapi.GetSregs, "system registers") }

// SetSregs sets segments, control registers, EFER and the APIC base. SetCPUID must come
// first, whatever the registers: KVM compares them with what the guest's CPU can do, bits of
// CR4 long since and EFER since Linux 7.2, and a CPU without CPUID has no long mode.
func (c *VCPU) SetSregs(v *Sregs) error {
	if !c.described {
		return fmt.Errorf("set system registers of vCPU %d: %w", c.id, ErrNoCPUID)
	}
	return set(c, uapi.SetSregs, "system registers", v)
}

// FPU returns x87 and SSE state. KVM may lose MXCSR here; XSave has it.
func (c *VCPU) FPU() (*FPU, error) { return get[FPU](c, uapi.GetFPU, "FPU") }

// SetFPU sets x87 and SSE state.
func (c *VCPU) SetFPU(v *FPU) error { return set(c, uapi.SetFPU, "FPU", v) }

// XCRs returns the extended control registers.
func (c *VCPU) XCRs() (*XCRs, error) { return get[XCRs](c, uapi.GetXCRs, "XCRs") }

// SetXCRs sets the extended control registers.
func (c *VCPU) SetXCRs(v *XCRs) error { return set(c, uapi.SetXCRs, "XCRs", v) }

// DebugRegs returns the debug registers.
func (c *VCPU) DebugRegs() (*DebugRegs, error) {
	return get[DebugRegs](c, uapi.GetDebugRegs, "debug registers")
}

// SetDebugRegs sets the debug registers.
func (c *VCPU) SetDebugRegs(v *DebugRegs) error {
	return set(c, uapi.SetDebugRegs, "debug registers", v)
}

// LAPIC returns the local APIC's registers. It needs CreateIRQChip.
func (c *VCPU) LAPIC() (*LAPIC, error) { return get[LAPIC](c, uapi.GetLAPIC, "local APIC") }

// SetLAPIC sets the local APIC's registers.
func (c *VCPU) SetLAPIC(v *LAPIC) error { return set(c, uapi.SetLAPIC, "local APIC", v) }

// Events returns pending exceptions, interrupts and NMIs.
func (c *VCPU) Events() (*VCPUEvents, error) { return get[VCPUEvents](c, uapi.GetVCPUEvents, "events") }

// SetEvents sets pending exceptions, interrupts and NMIs.
func (c *VCPU) SetEvents(v *VCPUEvents) error { return set(c, uapi.SetVCPUEvents, "events", v) }

// MPState returns where the vCPU is in its life.
func (c *VCPU) MPState() (MPState, error) {
	v, err := get[uapi.MPState](c, uapi.GetMPState, "state")
	if err != nil {
		return 0, err
	}
	return MPState(v.State), nil
}

// SetMPState sets where the vCPU is in its life.
func (c *VCPU) SetMPState(s MPState) error {
	return set(c, uapi.SetMPState, "state", &uapi.MPState{State: uint32(s)})
}

// NMI queues a non-maskable interrupt.
func (c *VCPU) NMI() error {
	if _, err := c.fd.Ioctl(uapi.NMI, 0); err != nil {
		return fmt.Errorf("NMI to vCPU %d: %w", c.id, err)
	}
	return nil
}

// SetSingleStep makes the guest exit with ExitDebug after each instruction, or ends that.
func (c *VCPU) SetSingleStep(on bool) error {
	arg := uapi.GuestDebug{}
	if on {
		arg.Control = uapi.GuestDebugEnable | uapi.GuestDebugSingleStep
	}
	return set(c, uapi.SetGuestDebug, "debugging", &arg)
}

// Interrupt queues an external interrupt, for VMs without CreateIRQChip.
func (c *VCPU) Interrupt(vector uint8) error {
	return set(c, uapi.InterruptVCPU, "interrupt", &uapi.Interrupt{IRQ: uint32(vector)})
}

// SetHostTSCKHz lets the guest's time-stamp counter run at the host's frequency, which it should do
// without being asked. But a KVM that started before the host had refined its measurement asks
// itself for the older value, finds that it can't scale to it, and leaves the vCPU with
// neither a scale nor an offset (kvm_set_tsc_khz in Linux 6.1 to 7.1): then the guest reads
// the host's counter, KVM believes that it reads 0, and deadlines of the local APIC's
// timer pass a minute late. It must come before the vCPU first runs.
func (c *VCPU) SetHostTSCKHz() error {
	if _, err := c.fd.Ioctl(uapi.SetTSCKHz, 0); err != nil {
		return fmt.Errorf("set TSC frequency of vCPU %d to the host's: %w", c.id, err)
	}
	return nil
}

// TSCKHz returns the frequency of the guest's time-stamp counter in kHz.
func (c *VCPU) TSCKHz() (int, error) {
	khz, err := c.fd.Ioctl(uapi.GetTSCKHz, 0)
	if err != nil {
		return 0, fmt.Errorf("get TSC frequency of vCPU %d: %w", c.id, err)
	}
	return khz, nil
}
