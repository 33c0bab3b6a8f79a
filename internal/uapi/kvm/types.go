package kvm

import (
	"fmt"

	"github.com/bobuhiro11/gokvm/kvm"
)

// Types whose layout gokvm has right.
type (
	Regs             = kvm.Regs
	Sregs            = kvm.Sregs
	Segment          = kvm.Segment
	Descriptor       = kvm.Descriptor // struct kvm_dtable
	DebugRegs        = kvm.DebugRegs
	XCRs             = kvm.XCRS
	XCR              = kvm.XRC
	MemoryRegion     = kvm.UserspaceMemoryRegion
	CPUIDEntry       = kvm.CPUIDEntry2
	VCPUEvents       = kvm.VCPUEvents
	MPState          = kvm.MPState
	LAPICState       = kvm.LAPICState
	IRQChip          = kvm.IRQChip
	PITChannelState  = kvm.PITChannelState
	PITState2        = kvm.PITState2
	DirtyLog         = kvm.DirtyLog
	Translation      = kvm.Translation
	EventException   = kvm.Exception
	EventInterrupt   = kvm.Interrupt
	EventNMI         = kvm.NMI
	EventSMI         = kvm.SMI
	IRQRoutingPinRef = kvm.IRQRoutingIRQChip
)

// Capability is the number of something that KVM can or can't do. gokvm's type has the
// names, but only 8 bits.
type Capability uint32

func (c Capability) String() string {
	if c > 0xff {
		return fmt.Sprintf("Capability(%d)", uint32(c))
	}
	return kvm.Capability(c).String()
}

// FPU is struct kvm_fpu.
type FPU struct {
	FPR        [8][16]byte
	FCW        uint16
	FSW        uint16
	FTWX       uint8
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// XSave is struct kvm_xsave without dynamic features: the XSAVE area in standard format. With them it
// is longer (CapXSave2 says how long).
type XSave struct {
	Region [1024]uint32
}

// MSREntry is struct kvm_msr_entry.
type MSREntry struct {
	Index uint32
	_     uint32
	Data  uint64
}

// ListHeader stands before the entries of struct kvm_msrs, kvm_cpuid2 and kvm_irq_routing.
type ListHeader struct {
	N uint32
	_ uint32 // flags of kvm_irq_routing: none defined
}

// IRQLevel is struct kvm_irq_level.
type IRQLevel struct {
	IRQ   uint32
	Level uint32
}

// PITConfig is struct kvm_pit_config.
type PITConfig struct {
	Flags uint32
	_     [15]uint32
}

// ReinjectControl is struct kvm_reinject_control.
type ReinjectControl struct {
	PITReinject uint8
	_           [31]uint8
}

// OneReg is struct kvm_one_reg.
type OneReg struct {
	ID   uint64
	Addr uint64 // of the register's value in this process
}

// IRQRoutingEntry is struct kvm_irq_routing_entry. U is a union: for RoutingIRQChip
// the chip and the pin; for RoutingMSI the address's low and high half, the data and
// the device ID.
type IRQRoutingEntry struct {
	GSI   uint32
	Type  uint32
	Flags uint32
	_     uint32
	U     [8]uint32
}

// IRQFD is struct kvm_irqfd.
type IRQFD struct {
	FD         uint32
	GSI        uint32
	Flags      uint32
	ResampleFD uint32
	_          [16]uint8
}

// IOEventFD is struct kvm_ioeventfd.
type IOEventFD struct {
	DataMatch uint64
	Addr      uint64
	Len       uint32
	FD        int32
	Flags     uint32
	_         [36]uint8
}

// MSI is struct kvm_msi.
type MSI struct {
	AddressLo uint32
	AddressHi uint32
	Data      uint32
	Flags     uint32
	DevID     uint32
	_         [12]uint8
}

// ClockData is struct kvm_clock_data.
type ClockData struct {
	Clock    uint64 // ns
	Flags    uint32
	_        uint32
	Realtime uint64 // ns since 1970
	HostTSC  uint64
	_        [4]uint32
}

// EnableCap is struct kvm_enable_cap.
type EnableCap struct {
	Cap   uint32
	Flags uint32
	Args  [4]uint64
	_     [64]uint8
}

// CreateDevice is struct kvm_create_device.
type CreateDevice struct {
	Type  uint32
	FD    uint32 // out
	Flags uint32
}

// DeviceAttr is struct kvm_device_attr.
type DeviceAttr struct {
	Flags uint32
	Group uint32
	Attr  uint64
	Addr  uint64 // of the attribute's data in this process
}

// GuestDebug is struct kvm_guest_debug.
type GuestDebug struct {
	Control   uint32
	_         uint32
	DebugRegs [8]uint64
}

// Interrupt is struct kvm_interrupt.
type Interrupt struct {
	IRQ uint32
}
