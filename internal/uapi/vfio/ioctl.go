package vfio

// APIVersion is what VFIO_GET_API_VERSION returns.
const APIVersion = 0

// ioctl numbers of a container (/dev/vfio/vfio).
const (
	GetAPIVersion  = 0x3b64
	CheckExtension = 0x3b65
	SetIOMMU       = 0x3b66
	GetIOMMUInfo   = 0x3b70
	MapDMA         = 0x3b71
	UnmapDMA       = 0x3b72
)

// ioctl numbers of a group (/dev/vfio/N).
const (
	GroupGetStatus      = 0x3b67
	GroupSetContainer   = 0x3b68
	GroupUnsetContainer = 0x3b69
	GroupGetDeviceFD    = 0x3b6a
)

// ioctl numbers of a device. Some equal the container's: the descriptor decides.
const (
	DeviceGetInfo       = 0x3b6b
	DeviceGetRegionInfo = 0x3b6c
	DeviceGetIRQInfo    = 0x3b6d
	DeviceSetIRQs       = 0x3b6e
	DeviceReset         = 0x3b6f
	GetPCIHotResetInfo  = 0x3b70
	PCIHotReset         = 0x3b71
	IOEventFD           = 0x3b74
	Feature             = 0x3b75
	BindIOMMUFD         = 0x3b76 // Linux 6.6, as the next two
	AttachIOMMUFD       = 0x3b77
	DetachIOMMUFD       = 0x3b78
)
