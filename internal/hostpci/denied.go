package hostpci

import (
	"fmt"
	"slices"
)

// DeniedIDs returns the functions that vfio-pci and the module that wraps functions do not take, because faults of theirs let who uses them
// harm the host (drivers/vfio/pci/vfio_pci.c of Linux 6.12; older kernels deny fewer).
func DeniedIDs() []ID {
	return []ID{
		{0x8086, 0x0435}, {0x8086, 0x0443}, // QAT DH895xCC and its virtual function
		{0x8086, 0x0b25}, {0x8086, 0x0cfe}, // DSA and IAX of the first stepping
		{0x8086, 0x19e2}, {0x8086, 0x19e3}, // QAT C3xxx
		{0x8086, 0x37c8}, {0x8086, 0x37c9}, // QAT C62x
	}
}

// deniedReason says why a VFIO driver does not take a function because of what it is, and how it does; "" where that is not the reason.
func deniedReason(id ID, driver string) string {
	if !slices.Contains(DeniedIDs(), id) {
		return ""
	}
	remedy := ""
	switch driver {
	case DefaultDriver:
		remedy = "modprobe -r vfio-pci, then modprobe vfio-pci disable_denylist=1"
	case DonorDriver:
		remedy = "echo 1 > /sys/module/vfio_mdev_pci/parameters/disable_denylist"
	default:
		return ""
	}
	return fmt.Sprintf("the device %v is on the kernel's list of those with faults by which a guest can harm the host; "+
		"for guests that you trust: %s, and try again", id, remedy)
}
