package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Capability names something that KVM can or can't do (KVM_CAP_…).
type Capability = uapi.Capability

// System is /dev/kvm.
type System struct {
	fd       *sys.FD
	pageSize int // bytes of the area shared with the kernel per vCPU
	kernel   kernel
}

// Device is the path of KVM's device node.
const Device = "/dev/kvm"

// Open opens /dev/kvm and checks its version. Where KVM is absent the error wraps
// feature.ErrNotSupported; where this user may not use it, fs.ErrPermission. Both say
// what to do.
func Open() (*System, error) { return open(Device, here()) }

func open(path string, where surroundings) (*System, error) {
	fd, err := sys.Open(path, syscall.O_RDWR)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return nil, where.absent(err)
	case errors.Is(err, fs.ErrPermission):
		return nil, where.forbidden(path, err)
	default:
		return nil, err
	}
	s := &System{fd: fd, kernel: linux{}}
	if err := s.init(); err != nil {
		fd.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *System) init() error {
	version, err := s.fd.Ioctl(uapi.GetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_API_VERSION: %w", err)
	}
	if version != uapi.APIVersion {
		return feature.Missing(fmt.Sprintf("KVM API version %d", uapi.APIVersion),
			fmt.Sprintf("the kernel has version %d", version))
	}
	if s.pageSize, err = s.fd.Ioctl(uapi.GetVCPUMmapSize, 0); err != nil {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if s.pageSize < runSize {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %d bytes, want at least %d", s.pageSize, runSize)
	}
	// It counts for the process and must come before its first vCPU. Where it is refused (no AMX, Linux
	// before 5.17, a vCPU of somebody else) KVM does not offer AMX, and guests have none.
	_ = s.kernel.permitTiles()
	return nil
}

// Capability returns what KVM says about c: 0 if it lacks it, else 1 or a value with a
// meaning of its own. Some depend on the VM, see VM.CheckExtension.
func (s *System) Capability(c Capability) int { return checkExtension(s.kernel, s.fd, c) }

func checkExtension(k kernel, fd *sys.FD, c Capability) int {
	n, err := k.checkExtension(fd, c)
	if err != nil {
		return 0
	}
	return n
}

// Require returns an error that wraps feature.ErrNotSupported and names the first of
// caps that KVM lacks.
func (s *System) Require(caps ...Capability) error {
	for _, c := range caps {
		if s.Capability(c) == 0 {
			return feature.Missing(fmt.Sprintf("KVM capability %v (%d)", c, int(c)), "a newer kernel is needed")
		}
	}
	return nil
}

// machineNeeds are capabilities that each machine of package vmm takes.
var machineNeeds = []Capability{
	uapi.CapIRQChip, uapi.CapUserMemory, uapi.CapIRQRouting, uapi.CapIRQFD, uapi.CapIOEventFD, uapi.CapImmediateExit,
}

// RequireMachine returns an error that wraps feature.ErrNotSupported if KVM lacks something that
// a machine with in-kernel interrupt controllers takes. It asks KVM and makes nothing.
//
// Since Linux 6.17 a kernel can be built without these controllers. KVM_CAP_IRQCHIP is there all the
// same; what is not is the timer, which belongs to the same option.
func (s *System) RequireMachine() error {
	if err := s.Require(machineNeeds...); err != nil {
		return err
	}
	if s.Capability(uapi.CapPIT2) == 0 {
		return feature.Missing("KVM's I/O APIC, PIC and PIT (KVM_CAP_PIT2)",
			"this kernel was built without CONFIG_KVM_IOAPIC: use one with CONFIG_KVM_IOAPIC=y, which is the default")
	}
	return nil
}

// RecommendedVCPUs is the number of vCPUs per VM up to which KVM expects to run well.
func (s *System) RecommendedVCPUs() int { return max(s.Capability(uapi.CapNrVCPUs), 1) }

// MaxVCPUs is the greatest number of vCPUs per VM.
func (s *System) MaxVCPUs() int { return max(s.Capability(uapi.CapMaxVCPUs), s.RecommendedVCPUs()) }

// VCPUMmapSize is the size in bytes of the area shared with the kernel per vCPU.
func (s *System) VCPUMmapSize() int { return s.pageSize }

// CreateVM makes a VM without memory, vCPUs and interrupt controller. The caller closes it.
func (s *System) CreateVM() (*VM, error) {
	// KVM gives up with EINTR when a signal, as Go's own, comes while it waits.
	fd, err := sys.Retry(func() (int, error) { return s.fd.Ioctl(uapi.CreateVM, 0) })
	if err != nil {
		return nil, fmt.Errorf("create VM: %w", err)
	}
	vm := &VM{fd: sys.NewFD(fd, "kvm vm"), pageSize: s.pageSize, kernel: s.kernel}
	vm.routing = newRouting(vm)
	return vm, nil
}

// Close closes /dev/kvm. VMs made from it live on. Further calls do nothing.
func (s *System) Close() error { return s.fd.Close() }
