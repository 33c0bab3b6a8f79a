package kvm

import (
	"fmt"
	"sync/atomic"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// VM is a virtual machine. Its methods may be called concurrently.
type VM struct {
	fd       *sys.FD
	pageSize int
	routing  *Routing
	kernel   kernel
	first    firstRun
	noPMU    atomic.Bool
	calls    calls
	retired  atomic.Bool // see Retire
}

// CheckExtension returns what KVM says about c for this VM, 0 if it lacks it.
func (vm *VM) CheckExtension(c Capability) int { return checkExtension(vm.kernel, vm.fd, c) }

// EnableCap switches an optional capability of the VM on. args are the capability's own.
func (vm *VM) EnableCap(c Capability, args ...uint64) error {
	enable := uapi.EnableCap{Cap: uint32(c)}
	copy(enable.Args[:], args)
	if err := vm.kernel.enableCap(vm, &enable); err != nil {
		return fmt.Errorf("enable %v of VM: %w", c, err)
	}
	return nil
}

// Close closes the VM. The kernel frees it once its vCPUs and devices are closed too.
// Further calls do nothing.
func (vm *VM) Close() error { return vm.fd.Close() }
