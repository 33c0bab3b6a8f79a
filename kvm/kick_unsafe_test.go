package kvm

import (
	"sync/atomic"
	"unsafe"
)

// immediateExit reads what setImmediateExit sets.
func (c *VCPU) immediateExit() bool {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(c.run)))&immediateExit != 0
}
