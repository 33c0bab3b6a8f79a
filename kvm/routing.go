package kvm

import (
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Routing is the VM's table of what each GSI raises. KVM replaces the table whole, so it
// has this one owner: changes gather here and Commit makes them valid with one ioctl.
//
// GSIs below Pins are wired and fixed: GSI n is pin n of the I/O APIC and, below 16, input
// n of the PICs too. (That is KVM's own default: the timer is GSI 0, not the pin 2 that PCs
// give it, so an ACPI MADT needs no interrupt source override for it.) GSIs from Pins on
// are message-signalled, handed out by AllocGSI.
//
// Methods may be called concurrently.
type Routing struct {
	vm *VM

	mu     sync.Mutex
	limit  int            // entries the kernel takes, 0 until asked
	routes map[uint32]MSI // by GSI
	taken  map[uint32]bool
	free   []uint32 // freed GSIs below next
	next   uint32
	dirty  bool
	table  []uapi.IRQRoutingEntry // reused by Commit
}

func newRouting(vm *VM) *Routing {
	return &Routing{vm: vm, routes: map[uint32]MSI{}, taken: map[uint32]bool{}, next: Pins}
}

// Routing returns the VM's routing table. It needs CreateIRQChip.
func (vm *VM) Routing() *Routing { return vm.routing }

// pinEntries is the number of entries that the wired GSIs take.
const pinEntries = Pins + 16

// AllocGSI returns a GSI for a message-signalled interrupt. It has no route yet.
func (r *Routing) AllocGSI() (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limit == 0 {
		r.limit = r.vm.CheckExtension(uapi.CapIRQRouting)
	}
	if len(r.taken) >= r.limit-pinEntries {
		return 0, fmt.Errorf("allocate GSI: all %d that KVM gives a VM are in use; give it fewer devices, or have the guest's drivers use fewer queues", len(r.taken))
	}
	gsi := r.next
	if n := len(r.free); n > 0 {
		gsi = r.free[n-1]
		r.free = r.free[:n-1]
	} else {
		r.next++
	}
	r.taken[gsi] = true
	return gsi, nil
}

// FreeGSI drops the GSI's route, to take effect with the next Commit, and makes the GSI
// available again. A GSI that is not allocated is ignored.
func (r *Routing) FreeGSI(gsi uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.taken[gsi] {
		return
	}
	r.clear(gsi)
	delete(r.taken, gsi)
	r.free = append(r.free, gsi)
}

// SetMSI makes gsi, from AllocGSI, raise m after the next Commit.
func (r *Routing) SetMSI(gsi uint32, m MSI) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.taken[gsi] {
		return fmt.Errorf("route GSI %d: not allocated", gsi)
	}
	if old, ok := r.routes[gsi]; ok && old == m {
		return nil
	}
	r.routes[gsi] = m
	r.dirty = true
	return nil
}

// ClearMSI makes gsi raise nothing after the next Commit. Signals of an irqfd attached to
// it are lost then: detach it first where they should count.
func (r *Routing) ClearMSI(gsi uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear(gsi)
}

func (r *Routing) clear(gsi uint32) {
	if _, ok := r.routes[gsi]; ok {
		delete(r.routes, gsi)
		r.dirty = true
	}
}

// Commit gives the table to the kernel if it changed since the last time. On an error the
// kernel keeps the old table and the next Commit tries again.
func (r *Routing) Commit() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.dirty {
		return nil
	}
	r.fill()
	r.vm.calls.add(callRouting)
	if _, err := sys.IoctlBytes(r.vm.fd, uapi.SetGSIRouting, list(r.table)); err != nil {
		return fmt.Errorf("set GSI routing, %d entries: %w", len(r.table), err)
	}
	r.dirty = false
	return nil
}

// fill rebuilds the table: wired GSIs, then messages.
func (r *Routing) fill() {
	r.table = r.table[:0]
	for gsi := range uint32(Pins) {
		switch {
		case gsi < 8:
			r.wire(gsi, uapi.ChipPICMaster, gsi)
		case gsi < 16:
			r.wire(gsi, uapi.ChipPICSlave, gsi-8)
		}
		r.wire(gsi, uapi.ChipIOAPIC, gsi)
	}
	for gsi, m := range r.routes {
		r.table = append(r.table, uapi.IRQRoutingEntry{
			GSI:  gsi,
			Type: uapi.RoutingMSI,
			U:    [8]uint32{uint32(m.Address), uint32(m.Address >> 32), m.Data},
		})
	}
}

func (r *Routing) wire(gsi, chip, pin uint32) {
	r.table = append(r.table, uapi.IRQRoutingEntry{GSI: gsi, Type: uapi.RoutingIRQChip, U: [8]uint32{chip, pin}})
}
