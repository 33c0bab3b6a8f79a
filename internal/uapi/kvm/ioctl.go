package kvm

// APIVersion is what KVM_GET_API_VERSION returns. It has not changed since 2.6.22.
const APIVersion = 12

// ioctl numbers of /dev/kvm.
const (
	GetAPIVersion          = 0xae00
	CreateVM               = 0xae01
	GetMSRIndexList        = 0xc004ae02
	CheckExtension         = 0xae03
	GetVCPUMmapSize        = 0xae04
	GetSupportedCPUID      = 0xc008ae05
	GetMSRFeatureIndexList = 0xc004ae0a
)

// ioctl numbers of a VM.
const (
	CreateVCPU          = 0xae41
	GetDirtyLog         = 0x4010ae42
	SetUserMemoryRegion = 0x4020ae46
	SetTSSAddr          = 0xae47
	SetIdentityMapAddr  = 0x4008ae48
	CreateIRQChip       = 0xae60
	IRQLine             = 0x4008ae61
	GetIRQChip          = 0xc208ae62
	SetIRQChip          = 0x8208ae63
	SetGSIRouting       = 0x4008ae6a
	SetReinjection      = 0xae71
	RegisterIRQFD       = 0x4020ae76
	CreatePIT2          = 0x4040ae77
	SetBootCPUID        = 0xae78
	RegisterIOEventFD   = 0x4040ae79
	SetClock            = 0x4030ae7b
	GetClock            = 0x8030ae7c
	GetPIT2             = 0x8070ae9f
	SetPIT2             = 0x4070aea0
	SetTSCKHz           = 0xaea2
	GetTSCKHz           = 0xaea3
	SignalMSI           = 0x4020aea5
	EnableCapability    = 0x4068aea3 // of a VM and of a vCPU
	CreateDeviceFD      = 0xc00caee0
	SetDeviceAttr       = 0x4018aee1 // of a device and of a VM
	GetDeviceAttr       = 0x4018aee2
	HasDeviceAttr       = 0x4018aee3
)

// ioctl numbers of a vCPU.
const (
	RunVCPU       = 0xae80
	GetRegs       = 0x8090ae81
	SetRegs       = 0x4090ae82
	GetSregs      = 0x8138ae83
	SetSregs      = 0x4138ae84
	Translate     = 0xc018ae85
	InterruptVCPU = 0x4004ae86
	GetMSRs       = 0xc008ae88
	SetMSRs       = 0x4008ae89
	GetFPU        = 0x81a0ae8c
	SetFPU        = 0x41a0ae8d
	GetLAPIC      = 0x8400ae8e
	SetLAPIC      = 0x4400ae8f
	SetCPUID2     = 0x4008ae90
	GetCPUID2     = 0xc008ae91
	GetMPState    = 0x8004ae98
	SetMPState    = 0x4004ae99
	NMI           = 0xae9a
	SetGuestDebug = 0x4048ae9b
	GetVCPUEvents = 0x8040ae9f
	SetVCPUEvents = 0x4040aea0
	GetDebugRegs  = 0x8080aea1
	SetDebugRegs  = 0x4080aea2
	GetXSave      = 0x9000aea4
	SetXSave      = 0x5000aea5
	GetXSave2     = 0x9000aecf
	GetXCRs       = 0x8188aea6
	SetXCRs       = 0x4188aea7
	GetOneReg     = 0x4010aeab
	SetOneReg     = 0x4010aeac
	KVMClockCtrl  = 0xaead

	GetNestedState = 0xc080aebe
	SetNestedState = 0x4080aebf
)
