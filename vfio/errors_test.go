package vfio

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestErrorsSayCauseAndRemedy drives each row of the kernel's errnos that a user can meet.
func TestErrorsSayCauseAndRemedy(t *testing.T) {
	const cdev = "/dev/vfio/devices/0000:01:00.0"
	for _, test := range []struct {
		backend Backend
		call    string
		errno   unix.Errno
		want    string
	}{
		{Legacy, "open /dev/vfio/vfio", unix.ENOENT, "modprobe vfio-pci"},
		{Legacy, "open /dev/vfio/7", unix.ENOENT, "bind it to vfio-pci"},
		{Legacy, "open /dev/vfio/7", unix.EACCES, "udev rule"},
		{Legacy, "open /dev/vfio/7", unix.EBUSY, "another process has it open"},
		{Legacy, "open /dev/vfio/7", unix.ENODEV, "lost its VFIO driver"},
		{Legacy, "open /dev/vfio/7", unix.EPERM, "CAP_SYS_RAWIO"},
		{Legacy, "open /dev/vfio/7", unix.EMFILE, "ulimit -n"},
		{Legacy, "VFIO_GROUP_SET_CONTAINER", unix.EPERM, "driver of the host for another member"},
		{Legacy, "VFIO_GROUP_SET_CONTAINER", unix.EBUSY, "DMA domain of its own"},
		{Legacy, "VFIO_GROUP_SET_CONTAINER", unix.EINVAL, "before RAM is mapped"},
		{Legacy, "VFIO_GROUP_SET_CONTAINER", unix.EBADFD, "file is none"},
		{Legacy, "VFIO_SET_IOMMU", unix.ENODEV, "modprobe vfio_iommu_type1"},
		{Legacy, "VFIO_SET_IOMMU", unix.EPERM, "interrupt remapping"},
		{Legacy, "VFIO_SET_IOMMU", unix.EINVAL, "no group"},
		{Legacy, "VFIO_SET_IOMMU", unix.EIO, "no domain"},
		{Legacy, "VFIO_GROUP_GET_DEVICE_FD", unix.ENODEV, "wrapped as a mediated device"},
		{Legacy, "VFIO_GROUP_GET_DEVICE_FD", unix.EINVAL, "no IOMMU, or a VF token"},
		{Legacy, "VFIO_GROUP_GET_DEVICE_FD", unix.EACCES, "token=UUID"},
		{Legacy, "VFIO_GROUP_GET_DEVICE_FD", unix.EPERM, "another member"},
		{Legacy, "VFIO_GROUP_GET_DEVICE_FD", unix.EAGAIN, "try again"},
		{Legacy, "VFIO_IOMMU_MAP_DMA", unix.EINVAL, "outside of what it can translate"},
		{Legacy, "VFIO_IOMMU_MAP_DMA", unix.EEXIST, "mapped there already"},
		{Legacy, "VFIO_IOMMU_MAP_DMA", unix.ENOSPC, "dma_entry_limit"},
		{Legacy, "VFIO_IOMMU_MAP_DMA", unix.ENOMEM, "pinned"},
		{Legacy, "VFIO_IOMMU_MAP_DMA", unix.EFAULT, "BAR"},
		{IOMMUFD, "open /dev/iommu", unix.ENOENT, "modprobe iommufd"},
		{IOMMUFD, "open /dev/iommu", unix.EACCES, "udev rule"},
		{IOMMUFD, "open " + cdev, unix.ENOENT, "bind it to vfio-pci"},
		{IOMMUFD, "open " + cdev, unix.ENODEV, "lost its VFIO driver"},
		{IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", unix.EBUSY, "group is open"},
		{IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", unix.EINVAL, "in use, by this or another process"},
		{IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", unix.EPERM, "driver of the host"},
		{IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", unix.ENODEV, "no IOMMU group"},
		{IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", unix.EACCES, "token=UUID"},
		{IOMMUFD, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", unix.EINVAL, "another device of the group"},
		{IOMMUFD, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", unix.EADDRINUSE, "reserved for the device"},
		{IOMMUFD, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", unix.ENOENT, "is gone"},
		{IOMMUFD, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", unix.ENOMEM, "ulimit -l"},
		{IOMMUFD, "IOMMU_IOAS_MAP", unix.EINVAL, "reserved for interrupts"},
		{IOMMUFD, "IOMMU_IOAS_MAP", unix.EEXIST, "mapped there already"},
		{IOMMUFD, "IOMMU_IOAS_MAP", unix.EFAULT, "BAR"},
		{IOMMUFD, "IOMMU_IOAS_MAP", unix.ENOMEM, "pinned"},
	} {
		t.Run(test.call+" "+test.errno.Error(), func(t *testing.T) {
			pci := fakePCI("0000:01:00.0", 7)
			k := newFakeKernel(t, pci)
			k.fail[test.call] = test.errno
			err := use(t, k, test.backend, pci.node)
			wantError(t, err, test.want)
			if !errors.Is(err, test.errno) {
				t.Errorf("%v does not wrap %v", err, test.errno)
			}
		})
	}
}

// use opens a Space, attaches a device and maps memory; it returns the first error.
func use(t *testing.T, k *fakeKernel, b Backend, n Node) error {
	s, err := open(k, b, Options{Describe: func(n Node) string { return "held by 42 (qemu)" }})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Attach(n); err != nil {
		return err
	}
	return s.Map(0, memory(t, 4096), Read)
}

func TestGroupNotViable(t *testing.T) {
	pci := fakePCI("0000:01:00.0", 7)
	k := newFakeKernel(t, pci)
	k.notViable = true
	wantError(t, use(t, k, Legacy, pci.node), "not viable", "iommu_groups/7/devices", "held by 42 (qemu)")
}

func TestBusyGroupNamesItsHolder(t *testing.T) {
	pci := fakePCI("0000:01:00.0", 7)
	k := newFakeKernel(t, pci)
	first := openFake(t, k, Legacy)
	attach(t, first, pci.node)
	err := use(t, k, Legacy, pci.node)
	wantError(t, err, "group 7", "held by 42 (qemu)")
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v", err)
	}
}

func TestNodeWithoutGroupOrCdev(t *testing.T) {
	k := newFakeKernel(t)
	wantError(t, use(t, k, Legacy, Node{Name: "0000:01:00.0", Group: -1}), "intel_iommu=on")
	wantError(t, use(t, k, IOMMUFD, Node{Name: "0000:01:00.0", Group: 7}), "Linux 6.6")
}
