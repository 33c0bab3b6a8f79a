// Package iommufd is the kernel's iommufd ABI (linux/iommufd.h, Linux 6.6): structs, ioctl
// numbers, flags. No code. Every size, offset and number is compared with what a C program
// prints from the kernel's headers.
//
// Each struct begins with Size, its bytes: a kernel that knows a longer struct takes the
// rest as 0, one that knows a shorter struct refuses what is not 0 beyond it (E2BIG).
package iommufd

// ioctl numbers of /dev/iommu.
const (
	Destroy        = 0x3b80
	IOASAlloc      = 0x3b81
	IOASAllowIOVAs = 0x3b82
	IOASCopy       = 0x3b83
	IOASIOVARanges = 0x3b84
	IOASMap        = 0x3b85
	IOASUnmap      = 0x3b86
	Option         = 0x3b87
)

// Flags of IOASMapArg and IOASCopyArg. Read and write are the device's.
const (
	MapFixedIOVA = 1 << 0
	MapWriteable = 1 << 1
	MapReadable  = 1 << 2
)

// Options and operations of OptionArg.
const (
	OptionRlimitMode = 0 // value 1: memory is charged to the process, 0: to the user
	OptionHugePages  = 1 // of an IOAS; value 0: no large IOMMU pages

	OptionSet = 0
	OptionGet = 1
)

// DestroyArg is struct iommu_destroy.
type DestroyArg struct {
	Size uint32
	ID   uint32
}

// IOASAllocArg is struct iommu_ioas_alloc.
type IOASAllocArg struct {
	Size  uint32
	Flags uint32
	ID    uint32 // out
}

// IOVARange is struct iommu_iova_range. Last is inclusive.
type IOVARange struct {
	Start uint64
	Last  uint64
}

// IOVARangesArg is struct iommu_ioas_iova_ranges.
type IOVARangesArg struct {
	Size      uint32
	IOASID    uint32
	NumIOVAs  uint32 // in: room for that many; out: how many there are
	Reserved  uint32
	Allowed   uint64 // address of the IOVARanges
	Alignment uint64 // out, bytes
}

// AllowIOVAsArg is struct iommu_ioas_allow_iovas.
type AllowIOVAsArg struct {
	Size     uint32
	IOASID   uint32
	NumIOVAs uint32
	Reserved uint32
	Allowed  uint64 // address of the IOVARanges
}

// IOASMapArg is struct iommu_ioas_map.
type IOASMapArg struct {
	Size     uint32
	Flags    uint32
	IOASID   uint32
	Reserved uint32
	UserVA   uint64
	Length   uint64
	IOVA     uint64
}

// IOASCopyArg is struct iommu_ioas_copy.
type IOASCopyArg struct {
	Size    uint32
	Flags   uint32
	DstIOAS uint32
	SrcIOAS uint32
	Length  uint64
	DstIOVA uint64
	SrcIOVA uint64
}

// IOASUnmapArg is struct iommu_ioas_unmap.
type IOASUnmapArg struct {
	Size   uint32
	IOASID uint32
	IOVA   uint64
	Length uint64 // out: how much was unmapped
}

// OptionArg is struct iommu_option.
type OptionArg struct {
	Size     uint32
	OptionID uint32
	Op       uint16
	Reserved uint16
	ObjectID uint32
	Value    uint64
}
