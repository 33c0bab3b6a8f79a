package vfio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fail makes an error of what the kernel said about object, with cause and remedy where the
// errno has a meaning of its own there.
func (c call) fail(object string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		if why := c.reason(errno); why != "" {
			return fmt.Errorf("%s: %s: %w: %s", c.name, object, err, why)
		}
	}
	return fmt.Errorf("%s: %s: %w", c.name, object, err)
}

// failMap is fail for a map, with the memory limit where that is the cause.
func (c call) failMap(b Backend, m mapping, err error) error {
	object := fmt.Sprintf("%v, memory at %#x", m, m.addr())
	if errors.Is(err, unix.ENOMEM) {
		why := CheckMemlock(b, m.size())
		if why == nil {
			why = CheckMemoryGroup(m.size())
		}
		if why != nil {
			return fmt.Errorf("%s: %s: %w: %w", c.name, object, err, why)
		}
	}
	return c.fail(object, err)
}

// reason returns cause and remedy, "" where the errno speaks for itself. The errnos are what
// drivers/vfio and drivers/iommu/iommufd return in Linux 6.12.
func (c call) reason(errno unix.Errno) string {
	switch c {
	case openContainer, openIOMMU, openGroup, openCdev:
		return openReason(c, errno)
	case callSetContainer, callSetIOMMU, callGetDeviceFD, callUnsetContainer:
		return groupReason(c, errno)
	case callBind, callAttach:
		return iommufdReason(c, errno)
	case callMapDMA, callIOASMap, callUnmapDMA, callIOASUnmap:
		return mapReason(c, errno)
	case callSetIRQs, callReset, callHotReset, callDeviceInfo:
		return deviceReason(c, errno)
	}
	return ""
}

func openReason(c call, errno unix.Errno) string {
	switch errno {
	case unix.EACCES:
		return "no permission for this file: run as root, or give your user access to it (udev rule, chown)"
	case unix.EMFILE, unix.ENFILE:
		return "too many open files: raise the limit (ulimit -n)"
	}
	switch c {
	case openContainer:
		if errno == unix.ENOENT || errno == unix.ENODEV {
			return "the kernel has no VFIO containers: modprobe vfio-pci, or use iommufd"
		}
	case openIOMMU:
		if errno == unix.ENOENT || errno == unix.ENODEV {
			return "the kernel has no iommufd: modprobe iommufd (Linux 6.6, CONFIG_IOMMUFD), or use groups"
		}
	case openGroup:
		switch errno {
		case unix.ENOENT:
			return "no device of the group has a VFIO driver: bind it to vfio-pci"
		case unix.EBUSY:
			return "the group is in use: another process has it open, or uses one of its devices through its character device; " +
				"fuser -v on the file names it"
		case unix.ENODEV:
			return "its last device lost its VFIO driver just now: bind it again"
		case unix.EPERM:
			return "a group without IOMMU needs CAP_SYS_RAWIO"
		}
	case openCdev:
		switch errno {
		case unix.ENOENT:
			return "the device has no VFIO driver: bind it to vfio-pci"
		case unix.ENODEV:
			return "the device lost its VFIO driver just now: bind it again"
		}
	}
	return ""
}

func groupReason(c call, errno unix.Errno) string {
	switch c {
	case callSetContainer:
		switch errno {
		case unix.EPERM:
			return "something else has the DMA of the group: a driver of the host for another member, or another iommufd; " +
				"or groups with and without IOMMU were mixed, or the latter lacks CAP_SYS_RAWIO"
		case unix.EBUSY:
			return "the host uses the group with a DMA domain of its own, or a device of the group is being reset all the time"
		case unix.EINVAL:
			return "the group is in a container already, or what is mapped lies outside of what its IOMMU can translate, " +
				"or in memory that is reserved for it: attach all devices before RAM is mapped"
		case unix.ENODEV:
			return "its last device lost its VFIO driver just now: bind it again"
		case unix.ENOMEM:
			return "what is mapped could not be pinned for it: memory, or its limit, is exhausted (ulimit -l)"
		case unix.EBADF, unix.EBADFD:
			return "the container's file is none"
		}
	case callSetIOMMU:
		switch errno {
		case unix.ENODEV:
			return "the kernel's module for it is missing: modprobe vfio_iommu_type1"
		case unix.EPERM:
			return "the host cannot isolate interrupts (no interrupt remapping): enable it in the firmware's setup; " +
				"vfio_iommu_type1.allow_unsafe_interrupts=1 goes without, and lets the guest raise any interrupt of the host"
		case unix.EINVAL:
			return "the container has no group, or an IOMMU already"
		case unix.EBUSY:
			return "a device of the group is being reset all the time: look who does, and try again"
		case unix.EIO:
			return "the IOMMU has no domain for the group"
		}
	case callGetDeviceFD:
		switch errno {
		case unix.ENODEV:
			return "no VFIO driver has a device of that name in the group: it is bound to another driver, " +
				"or wrapped as a mediated device, whose UUID is its name then"
		case unix.EINVAL:
			return "the group has no IOMMU, or a VF token was given for what needs none: neither a PF nor a VF of one with a VFIO driver"
		case unix.EACCES:
			return "a VF whose PF has a VFIO driver too, and such a PF while its VFs are in use, need the VF token that they share: " +
				"any UUID, which the PF's user chooses (--device ADDRESS,token=UUID)"
		case unix.EPERM:
			return "a driver of the host has the DMA of another member of the group, or interrupts cannot be isolated " +
				"(told so late where iommufd stands in for containers)"
		case unix.EAGAIN:
			return "someone else resets or configures the device all the time: look who does, and try again"
		}
	case callUnsetContainer:
		if errno == unix.EBUSY {
			return "a device of the group is still open, or one of its BARs still mapped"
		}
	}
	return ""
}

func iommufdReason(c call, errno unix.Errno) string {
	if c == callBind {
		switch errno {
		case unix.EBUSY:
			return "the device's group is open (/dev/vfio/N): another process has it or another device of it"
		case unix.EINVAL:
			return "the device is in use, by this or another process, or its IOMMU does not keep caches coherent; " +
				"fuser -v on its character device names the user"
		case unix.EPERM:
			return "another process's iommufd, or a driver of the host, has the DMA of a member of the group; or the host cannot isolate " +
				"interrupts: iommufd.allow_unsafe_interrupts=1 goes without, and lets the guest raise any interrupt of the host"
		case unix.EACCES:
			return "the device needs the VF token that it shares with its PF or its VFs (--device ADDRESS,token=UUID), with groups"
		case unix.ENODEV:
			return "the device is in no IOMMU group, or lost its driver: switch the IOMMU on, bind the device again"
		case unix.EAGAIN:
			return "someone else resets or configures the device all the time: look who does, and try again"
		}
		return ""
	}
	switch errno {
	case unix.EINVAL:
		return "another device of the group is in another address space, or the IOMMU cannot serve the device beside the others"
	case unix.EADDRINUSE:
		return "something is mapped in memory that is reserved for the device: attach all devices before RAM is mapped"
	case unix.EBUSY:
		return "a device of the group is being reset all the time: look who does, and try again"
	case unix.ENOENT:
		return "the address space is gone"
	case unix.ENOMEM:
		return "what is mapped could not be pinned for it: memory, or its limit, is exhausted (ulimit -l)"
	}
	return ""
}

func mapReason(c call, errno unix.Errno) string {
	switch errno {
	case unix.EINVAL:
		if c == callUnmapDMA {
			return "the range would split a map, or no device is left in the container"
		}
		return "not aligned to the IOMMU's pages, or outside of what it can translate (reserved for interrupts or the firmware, or too wide)"
	case unix.EEXIST:
		return "something is mapped there already"
	case unix.ENOENT:
		return "nothing is mapped there, or the range would split a map"
	case unix.ENOSPC:
		return "too many maps: raise vfio_iommu_type1.dma_entry_limit"
	case unix.ENOMEM:
		return "the memory could not be pinned: the host, or the control group, has too little free"
	case unix.EFAULT:
		return "the memory is not mapped, or is a device's (a BAR), which this backend cannot pin"
	}
	return ""
}

func deviceReason(c call, errno unix.Errno) string {
	switch c {
	case callSetIRQs:
		switch errno {
		case unix.ENOTTY:
			return "the device has no such action"
		case unix.ENOSPC:
			return "the host has no interrupt vectors left"
		case unix.EBUSY:
			return "the wired interrupt is shared with a device of the host and cannot be masked by itself: use MSI, or unbind the other device"
		case unix.ENODEV:
			return "the interrupt is not connected on the host"
		}
	case callReset:
		switch errno {
		case unix.EAGAIN:
			return "the kernel is busy with the device"
		case unix.ENOTTY:
			return "no reset works: its link is down, or the device is dead. Linux 7.0 and 7.1 also fail so where the device's reset_method in sysfs begins " +
				"with device_specific: write flr or bus to that file"
		}
	case callHotReset:
		switch errno {
		case unix.EINVAL:
			return "one of them has no VFIO driver, or is in use by someone else"
		case unix.EBUSY, unix.EAGAIN:
			return "one of them is in use this moment: try again"
		case unix.ENOTTY:
			return "the port above them cannot reset its link"
		}
	case callDeviceInfo:
		if errno == unix.EINVAL {
			return "the device is not bound to an iommufd"
		}
	}
	return ""
}
