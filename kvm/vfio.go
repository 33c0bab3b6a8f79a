package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// VFIODevice tells KVM which VFIO groups or devices belong to the VM, so that it knows of
// non-coherent DMA and mediated devices know their VM
// (Documentation/virt/kvm/devices/vfio.rst). A VM has at most one: EBUSY for a second.
// Methods may be called concurrently.
type VFIODevice struct {
	fd *sys.FD
}

// CreateVFIODevice makes the pseudo-device. The caller closes it before the groups and
// devices that were added.
func (vm *VM) CreateVFIODevice() (*VFIODevice, error) {
	create := uapi.CreateDevice{Type: uapi.DevTypeVFIO}
	if _, err := sys.IoctlPtr(vm.fd, uapi.CreateDeviceFD, &create); err != nil {
		return nil, fmt.Errorf("create KVM-VFIO device: %w", err)
	}
	return &VFIODevice{fd: sys.NewFD(int(create.FD), "kvm vfio device")}, nil
}

// Add makes a VFIO group, or a VFIO device opened through its character device (Linux
// 6.6), known to KVM. It must come before the device is opened. EEXIST if it is known.
func (d *VFIODevice) Add(fd int) error {
	if err := d.set(uapi.DevVFIOFileAdd, fd); err != nil {
		return fmt.Errorf("add VFIO file %d to KVM: %w", fd, err)
	}
	return nil
}

// Remove undoes Add. ENOENT if the file is not known.
func (d *VFIODevice) Remove(fd int) error {
	if err := d.set(uapi.DevVFIOFileDel, fd); err != nil {
		return fmt.Errorf("remove VFIO file %d from KVM: %w", fd, err)
	}
	return nil
}

// Close closes the pseudo-device. Further calls do nothing.
func (d *VFIODevice) Close() error { return d.fd.Close() }
