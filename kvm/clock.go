package kvm

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Clock returns kvmclock's time, which starts at 0 with the VM.
func (vm *VM) Clock() (time.Duration, error) {
	clock := uapi.ClockData{}
	if _, err := sys.IoctlPtr(vm.fd, uapi.GetClock, &clock); err != nil {
		return 0, fmt.Errorf("get clock of VM: %w", err)
	}
	return time.Duration(clock.Clock), nil
}

// SetClock sets kvmclock's time.
func (vm *VM) SetClock(d time.Duration) error {
	clock := uapi.ClockData{Clock: uint64(d)}
	if _, err := sys.IoctlPtr(vm.fd, uapi.SetClock, &clock); err != nil {
		return fmt.Errorf("set clock of VM: %w", err)
	}
	return nil
}

// MarkStopped tells the guest, by its kvmclock, that the vCPU was not running for a while
// (KVM_KVMCLOCK_CTRL): Linux then does not mistake the pause for a lockup or a stall. A guest that does not
// use kvmclock is not told, which is no error. It is for the vCPU's own goroutine, as Run is.
func (c *VCPU) MarkStopped() error {
	_, err := c.fd.Ioctl(uapi.KVMClockCtrl, 0)
	if err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("tell vCPU %d's guest that it was stopped: %w", c.id, err)
	}
	return nil
}
