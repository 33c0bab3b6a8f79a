package kvm

import (
	"fmt"
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
