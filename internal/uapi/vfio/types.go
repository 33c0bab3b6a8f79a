package vfio

// GroupStatus is struct vfio_group_status.
type GroupStatus struct {
	ArgSize uint32
	Flags   uint32
}

// CapHeader is struct vfio_info_cap_header. Next is an offset from the start of the info
// that holds the chain, 0 at its end.
type CapHeader struct {
	ID      uint16
	Version uint16
	Next    uint32
}

// DeviceInfo is struct vfio_device_info.
type DeviceInfo struct {
	ArgSize    uint32
	Flags      uint32
	NumRegions uint32
	NumIRQs    uint32
	CapOffset  uint32
	Pad        uint32 // Linux 6.6
}

// RegionInfo is struct vfio_region_info. Size and Offset are bytes, Offset within the
// device's descriptor.
type RegionInfo struct {
	ArgSize   uint32
	Flags     uint32
	Index     uint32
	CapOffset uint32
	Size      uint64
	Offset    uint64
}

// SparseMmapCap is struct vfio_region_info_cap_sparse_mmap without its areas.
type SparseMmapCap struct {
	Header   CapHeader
	NumAreas uint32
	Reserved uint32
}

// SparseMmapArea is struct vfio_region_sparse_mmap_area, in bytes within the region.
type SparseMmapArea struct {
	Offset uint64
	Size   uint64
}

// TypeCap is struct vfio_region_info_cap_type.
type TypeCap struct {
	Header  CapHeader
	Type    uint32
	Subtype uint32
}

// IRQInfo is struct vfio_irq_info.
type IRQInfo struct {
	ArgSize uint32
	Flags   uint32
	Index   uint32
	Count   uint32
}

// IRQSet is struct vfio_irq_set without its data.
type IRQSet struct {
	ArgSize uint32
	Flags   uint32
	Index   uint32
	Start   uint32
	Count   uint32
}

// HotResetInfo is struct vfio_pci_hot_reset_info without its devices.
type HotResetInfo struct {
	ArgSize uint32
	Flags   uint32
	Count   uint32
}

// DependentDevice is struct vfio_pci_dependent_device. ID is a group's number, or with
// HotResetDevID a device's in its iommufd.
type DependentDevice struct {
	ID      uint32
	Segment uint16
	Bus     uint8
	DevFn   uint8
}

// HotReset is struct vfio_pci_hot_reset without its group descriptors.
type HotReset struct {
	ArgSize uint32
	Flags   uint32
	Count   uint32
}

// IOEventFDArg is struct vfio_device_ioeventfd.
type IOEventFDArg struct {
	ArgSize  uint32
	Flags    uint32
	Offset   uint64
	Data     uint64
	FD       int32
	Reserved uint32 // Linux 6.6
}

// DeviceFeature is struct vfio_device_feature without its data.
type DeviceFeature struct {
	ArgSize uint32
	Flags   uint32
}

// DeviceBind is struct vfio_device_bind_iommufd.
type DeviceBind struct {
	ArgSize uint32
	Flags   uint32
	IOMMUFD int32
	DevID   uint32
}

// DeviceAttach is struct vfio_device_attach_iommufd_pt.
type DeviceAttach struct {
	ArgSize uint32
	Flags   uint32
	PTID    uint32
}

// DeviceDetach is struct vfio_device_detach_iommufd_pt.
type DeviceDetach struct {
	ArgSize uint32
	Flags   uint32
}

// IOMMUInfo is struct vfio_iommu_type1_info. PageSizes has a bit for each page size.
type IOMMUInfo struct {
	ArgSize   uint32
	Flags     uint32
	PageSizes uint64
	CapOffset uint32
	Pad       uint32
}

// IOVARangeCap is struct vfio_iommu_type1_info_cap_iova_range without its ranges.
type IOVARangeCap struct {
	Header    CapHeader
	NumRanges uint32
	Reserved  uint32
}

// IOVARange is struct vfio_iova_range. End is the last address.
type IOVARange struct {
	Start uint64
	End   uint64
}

// DMAAvailCap is struct vfio_iommu_type1_info_dma_avail.
type DMAAvailCap struct {
	Header CapHeader
	Avail  uint32
}

// DMAMap is struct vfio_iommu_type1_dma_map.
type DMAMap struct {
	ArgSize uint32
	Flags   uint32
	VAddr   uint64
	IOVA    uint64
	Size    uint64
}

// DMAUnmap is struct vfio_iommu_type1_dma_unmap.
type DMAUnmap struct {
	ArgSize uint32
	Flags   uint32
	IOVA    uint64
	Size    uint64
}
