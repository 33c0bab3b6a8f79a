package kvm

import (
	"maps"
	"sync"
)

// Calls of a VM that may wait for a grace period of the kernel, up to 10 ms on hosts before Linux 6.18,
// by their names in C. Detach stands behind those that undo.
const (
	callSlot    = "KVM_SET_USER_MEMORY_REGION"
	callRouting = "KVM_SET_GSI_ROUTING"
	callIRQFD   = "KVM_IRQFD"
	callIOEvent = "KVM_IOEVENTFD"
	detach      = " detach"
)

// calls counts calls by name. Its methods may be called concurrently.
type calls struct {
	mu     sync.Mutex
	counts map[string]uint64
}

func (c *calls) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]uint64)
	}
	c.counts[name]++
}

// Calls returns how many calls were made so far that may wait for a grace period of the kernel: changes
// of memory slots, routes, irqfds and ioeventfds.
func (vm *VM) Calls() map[string]uint64 {
	vm.calls.mu.Lock()
	defer vm.calls.mu.Unlock()
	return maps.Clone(vm.calls.counts)
}

// Retire tells that no vCPU runs any more and that the VM is closed next. DetachIOEventFD, DetachIRQFD
// and RemoveMemorySlot do nothing from now on: what they would undo, one wait after the other, goes with
// the VM.
func (vm *VM) Retire() { vm.retired.Store(true) }
