package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// IOEvent is a guest write that signals an eventfd instead of ending Run: a doorbell.
type IOEvent struct {
	Addr  uint64 // guest-physical address, or port
	PIO   bool   // Addr is a port
	Len   uint32 // bytes a matching write has: 1, 2, 4 or 8; 0 for any
	Match bool   // only writes of Data match; not with Len 0
	Data  uint64
}

func (e IOEvent) String() string {
	space := "guest-physical"
	if e.PIO {
		space = "port"
	}
	s := fmt.Sprintf("%s %#x, %d bytes", space, e.Addr, e.Len)
	if e.Match {
		s += fmt.Sprintf(", data %#x", e.Data)
	}
	return s
}

// AttachIOEventFD makes writes that e describes signal the eventfd fd. Reads and other
// writes there still end Run. An event that another one covers already is EEXIST.
func (vm *VM) AttachIOEventFD(e IOEvent, fd int) error {
	vm.calls.add(callIOEvent)
	if err := vm.ioEventFD(e, fd, 0); err != nil {
		return fmt.Errorf("attach ioeventfd %d to %v: %w", fd, e, err)
	}
	return nil
}

// DetachIOEventFD undoes AttachIOEventFD with the same arguments. Closing the eventfd does
// not: until the VM goes, the guest's writes would keep on signalling nobody. After Retire it does
// nothing.
func (vm *VM) DetachIOEventFD(e IOEvent, fd int) error {
	if vm.retired.Load() {
		return nil
	}
	vm.calls.add(callIOEvent + detach)
	if err := vm.ioEventFD(e, fd, uapi.IOEventFDDeassign); err != nil {
		return fmt.Errorf("detach ioeventfd %d from %v: %w", fd, e, err)
	}
	return nil
}

func (vm *VM) ioEventFD(e IOEvent, fd int, flags uint32) error {
	if e.PIO {
		flags |= uapi.IOEventFDPIO
	}
	if e.Match {
		flags |= uapi.IOEventFDDataMatch
	}
	event := uapi.IOEventFD{DataMatch: e.Data, Addr: e.Addr, Len: e.Len, FD: int32(fd), Flags: flags}
	_, err := sys.IoctlPtr(vm.fd, uapi.RegisterIOEventFD, &event)
	return err
}
