// Package vhost is the kernel's vhost ABI as far as vhost-vsock needs it (linux/vhost.h, linux/vhost_types.h): structs and ioctl
// numbers. No code. Every size, offset and number is compared with what a C program prints from the kernel's headers.
package vhost

// ioctl numbers of /dev/vhost-vsock. GetFeatures and SetFeatures take a uint64, SetOwner nothing.
const (
	GetFeatures = 0x8008af00
	SetFeatures = 0x4008af00
	SetOwner    = 0xaf01
	SetMemTable = 0x4008af03 // Memory and its regions

	SetVringNum  = 0x4008af10 // VringState
	SetVringAddr = 0x4028af11 // VringAddr
	SetVringBase = 0x4008af12 // VringState
	SetVringKick = 0x4008af20 // VringFile
	SetVringCall = 0x4008af21 // VringFile

	VsockSetGuestCID = 0x4008af60 // uint64
	VsockSetRunning  = 0x4004af61 // int32
)

// Memory is struct vhost_memory, which regions follow.
type Memory struct {
	Regions uint32
	_       uint32
}

// MemoryRegion is struct vhost_memory_region.
type MemoryRegion struct {
	GuestPhysAddr uint64
	MemorySize    uint64 // bytes
	UserspaceAddr uint64
	_             uint64
}

// VringState is struct vhost_vring_state.
type VringState struct {
	Index uint32
	Num   uint32 // descriptors, or the index to go on with
}

// VringFile is struct vhost_vring_file.
type VringFile struct {
	Index uint32
	FD    int32 // an eventfd, -1 for none
}

// VringAddr is struct vhost_vring_addr. All addresses but the last are this process's.
type VringAddr struct {
	Index uint32
	Flags uint32
	Desc  uint64
	Used  uint64
	Avail uint64
	Log   uint64 // guest-physical, for migration
}
