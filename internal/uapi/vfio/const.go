package vfio

// Extensions and IOMMU types, for CheckExtension and SetIOMMU.
const (
	Type1IOMMU   = 1
	Type1v2IOMMU = 3
	NoIOMMU      = 8
	UnmapAll     = 9
)

// Flags of GroupStatus.
const (
	GroupViable       = 1 << 0
	GroupContainerSet = 1 << 1
)

// Flags of DeviceInfo.
const (
	DeviceCanReset = 1 << 0
	DevicePCI      = 1 << 1
	DeviceCaps     = 1 << 7
)

// Flags of RegionInfo.
const (
	RegionRead  = 1 << 0
	RegionWrite = 1 << 1
	RegionMmap  = 1 << 2
	RegionCaps  = 1 << 3
)

// Capabilities of RegionInfo.
const (
	RegionCapSparseMmap   = 1
	RegionCapType         = 2
	RegionCapMSIXMappable = 3
)

// Region indices of a PCI device; those from NumRegions on have a RegionCapType.
const (
	BAR0Region   = 0
	BAR5Region   = 5
	ROMRegion    = 6
	ConfigRegion = 7
	VGARegion    = 8
	NumRegions   = 9
)

// Flags of IRQInfo.
const (
	IRQEventFD    = 1 << 0
	IRQMaskable   = 1 << 1
	IRQAutoMasked = 1 << 2
	IRQNoResize   = 1 << 3
)

// Flags of IRQSet: one kind of data, one action.
const (
	IRQSetDataNone      = 1 << 0
	IRQSetDataBool      = 1 << 1
	IRQSetDataEventFD   = 1 << 2
	IRQSetActionMask    = 1 << 3
	IRQSetActionUnmask  = 1 << 4
	IRQSetActionTrigger = 1 << 5
)

// Interrupt indices of a PCI device.
const (
	INTxIRQ = 0
	MSIIRQ  = 1
	MSIXIRQ = 2
	ErrIRQ  = 3
	ReqIRQ  = 4
	NumIRQs = 5
)

// Flags of HotResetInfo, and values of DependentDevice.ID where HotResetDevID is set.
const (
	HotResetDevID      = 1 << 0
	HotResetDevIDOwned = 1 << 1

	DevIDOwned    = 0
	DevIDNotOwned = 0xffffffff
)

// Bits of DeviceFeature.Flags beside the feature's number.
const (
	FeatureMask  = 0xffff
	FeatureGet   = 1 << 16
	FeatureSet   = 1 << 17
	FeatureProbe = 1 << 18
)

// Feature numbers.
const (
	FeaturePCIVFToken    = 0
	FeatureMigration     = 1
	FeatureLowPowerEntry = 3
)

// Flags of IOEventFDArg.
const (
	IOEventFD8  = 1 << 0
	IOEventFD16 = 1 << 1
	IOEventFD32 = 1 << 2
	IOEventFD64 = 1 << 3
)

// Flags of IOMMUInfo and its capabilities.
const (
	IOMMUInfoPageSizes = 1 << 0
	IOMMUInfoCaps      = 1 << 1

	IOMMUCapIOVARange = 1
	IOMMUCapMigration = 2
	IOMMUCapDMAAvail  = 3
)

// Flags of DMAMap and DMAUnmap. Read and write are the device's.
const (
	MapRead  = 1 << 0
	MapWrite = 1 << 1

	UnmapFlagAll = 1 << 1
)
