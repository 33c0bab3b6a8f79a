package kvm

import (
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// kernel is what of KVM differs from host to host in ways that this one may not show. Tests put
// another host's answers in its place.
type kernel interface {
	// enter is KVM_RUN.
	enter(c *VCPU) error
	// createVCPU is KVM_CREATE_VCPU; it returns the descriptor.
	createVCPU(vm *VM, id int) (int, error)
	// checkExtension is KVM_CHECK_EXTENSION of /dev/kvm or of a VM.
	checkExtension(fd *sys.FD, c Capability) (int, error)
	// enableCap is KVM_ENABLE_CAP.
	enableCap(vm *VM, arg *uapi.EnableCap) error
	// permitTiles asks for the guests of this process to have AMX.
	permitTiles() error
}

// linux is this host's.
type linux struct{}

func (linux) enter(c *VCPU) error {
	_, err := c.fd.Ioctl(uapi.RunVCPU, 0)
	return err
}

func (linux) createVCPU(vm *VM, id int) (int, error) {
	return vm.fd.Ioctl(uapi.CreateVCPU, uintptr(id))
}

func (linux) checkExtension(fd *sys.FD, c Capability) (int, error) {
	return fd.Ioctl(uapi.CheckExtension, uintptr(c))
}

func (linux) enableCap(vm *VM, arg *uapi.EnableCap) error {
	_, err := sys.IoctlPtr(vm.fd, uapi.EnableCapability, arg)
	return err
}

func (linux) permitTiles() error {
	return sys.ArchPrctl(uapi.ReqXCompGuestPerm, uapi.XCompTileData)
}
