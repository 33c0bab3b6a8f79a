package kvm

// Capabilities (KVM_CAP_…), for KVM_CHECK_EXTENSION.
const (
	CapIRQChip               Capability = 0
	CapHLT                   Capability = 1
	CapUserMemory            Capability = 3
	CapSetTSSAddr            Capability = 4
	CapExtCPUID              Capability = 7
	CapClocksource           Capability = 8
	CapNrVCPUs               Capability = 9
	CapNrMemslots            Capability = 10
	CapMPState               Capability = 14
	CapSyncMMU               Capability = 16
	CapSetGuestDebug         Capability = 23
	CapReinjectControl       Capability = 24
	CapIRQRouting            Capability = 25
	CapIRQFD                 Capability = 32
	CapPIT2                  Capability = 33
	CapIOEventFD             Capability = 36
	CapSetIdentityMapAddr    Capability = 37
	CapAdjustClock           Capability = 39
	CapInternalErrorData     Capability = 40
	CapVCPUEvents            Capability = 41
	CapDebugRegs             Capability = 50
	CapXSave                 Capability = 55
	CapXCRs                  Capability = 56
	CapTSCControl            Capability = 60
	CapGetTSCKHz             Capability = 61
	CapMaxVCPUs              Capability = 66
	CapOneReg                Capability = 70
	CapTSCDeadlineTimer      Capability = 72
	CapSyncRegs              Capability = 74
	CapKVMClockCtrl          Capability = 76
	CapSignalMSI             Capability = 77
	CapReadonlyMem           Capability = 81
	CapIRQFDResample         Capability = 82
	CapDeviceCtrl            Capability = 89
	CapEnableCapVM           Capability = 98
	CapIOEventFDNoLength     Capability = 100
	CapX86SMM                Capability = 117
	CapSplitIRQChip          Capability = 121
	CapIOEventFDAnyLength    Capability = 122
	CapMaxVCPUID             Capability = 128
	CapX2APICAPI             Capability = 129
	CapMSIDevID              Capability = 131
	CapImmediateExit         Capability = 136
	CapX86DisableExits       Capability = 143
	CapGetMSRFeatures        Capability = 153
	CapNestedState           Capability = 157
	CapX86UserSpaceMSR       Capability = 188
	CapExitOnEmulationFailed Capability = 204
	CapXSave2                Capability = 208
	CapPMUCapability         Capability = 212
)

// Flags of MemoryRegion.
const (
	MemLogDirtyPages = 1
	MemReadonly      = 2
)

// Flags of IRQFD.
const (
	IRQFDDeassign = 1
	IRQFDResample = 2
)

// Flags of IOEventFD.
const (
	IOEventFDDataMatch = 1
	IOEventFDPIO       = 2
	IOEventFDDeassign  = 4
)

// Types of IRQRoutingEntry.
const (
	RoutingIRQChip = 1
	RoutingMSI     = 2
)

// Interrupt controllers, for IRQRoutingEntry and IRQChip.
const (
	ChipPICMaster = 0
	ChipPICSlave  = 1
	ChipIOAPIC    = 2

	IOAPICPins = 24
)

// Values of MPState.State.
const (
	MPStateRunnable      = 0
	MPStateUninitialized = 1
	MPStateInitReceived  = 2
	MPStateHalted        = 3
	MPStateSIPIReceived  = 4
)

// Bits of GuestDebug.Control.
const (
	GuestDebugEnable     = 0x1
	GuestDebugSingleStep = 0x2
	GuestDebugUseSWBP    = 0x10000
	GuestDebugUseHWBP    = 0x20000
)

// PMUCapDisable is the argument of CapPMUCapability that takes the VM's PMU away.
const PMUCapDisable = 1

// ReqXCompGuestPerm (asm/prctl.h) asks for this process's guests to have a component of the extended
// state that is allocated on demand, by its number: XCompTileData.
const (
	ReqXCompGuestPerm = 0x1025
	XCompTileData     = 18
)

// PITSpeakerDummy in PITConfig.Flags: the kernel answers port 0x61.
const PITSpeakerDummy = 1

// Parts of OneReg.ID on x86 (Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG): architecture, size
// and, since Linux 6.18, what kind of register the low half names.
const (
	RegX86     = 0x2000000000000000
	RegSizeU64 = 0x0030000000000000
	RegTypeMSR = 2 << 32
	RegTypeKVM = 3 << 32

	RegGuestSSP = RegX86 | RegSizeU64 | RegTypeKVM // shadow stack pointer
)

// Bits of ClockData.Flags.
const (
	ClockTSCStable = 2
	ClockRealtime  = 4
	ClockHostTSC   = 8
)

// The VFIO pseudo-device: type, group and attributes. FILE_* is the newer name of
// GROUP_*, with the same numbers (Documentation/virt/kvm/devices/vfio.rst).
const (
	DevTypeVFIO    = 4
	DevVFIOFile    = 1
	DevVFIOFileAdd = 1
	DevVFIOFileDel = 2
)

// CPUID leaves and bits that are KVM's own (asm/kvm_para.h), and the flag of entries
// that have an index.
const (
	CPUIDSignature       = 0x40000000
	CPUIDFeatures        = 0x40000001
	CPUIDSignificantIdx  = 1
	FeatureAsyncPF       = 4 // bit numbers of CPUIDFeatures' EAX
	FeatureAsyncPFVMExit = 10
	FeatureAsyncPFInt    = 14
)
