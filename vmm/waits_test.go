package vmm

import (
	"maps"
	"testing"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/kvm"
)

// emptyVM is a VM with interrupt controllers and nothing else.
func emptyVM(t *testing.T) *kvm.VM {
	t.Helper()
	testenv.KVM(t)
	system, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	vm, err := system.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	if err := vm.CreateIRQChip(); err != nil {
		t.Fatal(err)
	}
	return vm
}

func wantCalls(t *testing.T, what string, vm *kvm.VM, want map[string]uint64) {
	t.Helper()
	if got := vm.Calls(); !maps.Equal(got, want) {
		t.Errorf("%s: calls %v, want %v", what, got, want)
	}
}

// TestVectorCalls: a vector whose descriptor nobody wants needs neither route nor irqfd.
func TestVectorCalls(t *testing.T) {
	vm := emptyVM(t)
	v, err := interrupts{vm}.NewVector()
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	here, there := irq.Message{Address: 0xfee00000, Data: 0x41}, irq.Message{Address: 0xfee00000, Data: 0x42}
	must(v.Route(here))
	must(v.Trigger()) // there is no CPU to take it
	if v.Pending() {
		t.Error("an interrupt was kept though the vector is routed")
	}
	must(v.Unroute())
	must(v.Trigger())
	must(v.Route(there))
	if v.Pending() {
		t.Error("what was kept was not sent by the next route")
	}
	must(v.Unroute())
	must(v.Trigger())
	if !v.Pending() || v.Pending() {
		t.Error("an interrupt while the vector is not routed must be pending once")
	}
	must(v.Route(here))
	wantCalls(t, "not wired", vm, nil)
	fd, err := v.EventFD()
	if err != nil || fd < 0 {
		t.Fatal(fd, err)
	}
	want := map[string]uint64{"KVM_SET_GSI_ROUTING": 1, "KVM_IRQFD": 1}
	wantCalls(t, "wired while routed", vm, want)
	must(v.Route(here))
	wantCalls(t, "routed as before", vm, want)
	must(v.Unroute())
	must(v.Route(there))
	want["KVM_SET_GSI_ROUTING"], want["KVM_IRQFD"], want["KVM_IRQFD detach"] = 2, 2, 1
	wantCalls(t, "routed anew", vm, want)
	vm.Retire()
	must(v.Close())
	wantCalls(t, "closed with the VM", vm, want)
	if _, err := v.EventFD(); err == nil {
		t.Error("a closed vector has a descriptor")
	}
}

// TestDoorbellCalls: a doorbell whose BAR is switched off and on stays attached. It goes when it moves, and when something else
// comes to its place.
func TestDoorbellCalls(t *testing.T) {
	vm := emptyVM(t)
	event, err := sys.NewEventFD()
	if err != nil {
		t.Fatal(err)
	}
	defer event.Close()
	s, d := newSlots(vm), pci.Doorbell{Off: 0x10, EventFD: event.Int()}
	const base, size = 0x1_0000_0000, 0x1000
	add := func(at uint64) {
		t.Helper()
		if err := s.Decode(pci.Memory, at, size, []pci.Doorbell{d}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddDoorbell(pci.Memory, at+d.Off, d); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(at uint64) {
		t.Helper()
		if err := s.RemoveDoorbell(pci.Memory, at+d.Off, d); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		add(base)
		remove(base)
	}
	wantCalls(t, "switched off and on", vm, map[string]uint64{"KVM_IOEVENTFD": 1})
	for i := range uint64(100) {
		add(base + i*size)
		remove(base + i*size)
	}
	wantCalls(t, "moved", vm, map[string]uint64{"KVM_IOEVENTFD": 100, "KVM_IOEVENTFD detach": 99})
	if len(s.bells) != 1 {
		t.Errorf("%d doorbells are kept", len(s.bells))
	}
	if err := s.Decode(pci.IO, base+99*size, size, nil); err != nil || len(s.bells) != 1 {
		t.Errorf("ports at the same address: %d doorbells, %v", len(s.bells), err)
	}
	if err := s.Decode(pci.Memory, base+99*size, size, nil); err != nil || len(s.bells) != 0 {
		t.Errorf("something else in its place: %d doorbells, %v", len(s.bells), err)
	}
	if err := s.RemoveDoorbell(pci.Memory, base, d); err == nil {
		t.Error("a doorbell that is not there was removed")
	}
	add(base)
	if err := s.Decode(pci.Memory, base, size, nil); err != nil || len(s.bells) != 1 {
		t.Errorf("one that is in use: %d doorbells, %v", len(s.bells), err)
	}
	vm.Retire()
	remove(base)
	if err := s.Decode(pci.Memory, base, size, nil); err != nil {
		t.Error(err)
	}
	wantCalls(t, "closed with the VM", vm, map[string]uint64{"KVM_IOEVENTFD": 101, "KVM_IOEVENTFD detach": 100})
}
