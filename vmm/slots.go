package vmm

import (
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/kvm"
)

// slots owns the numbers of the VM's memory slots, and makes BAR parts reachable: host
// memory as slots, doorbells as ioeventfds. It implements pci.Mapper.
type slots struct {
	vm    *kvm.VM
	peers peers // told of BARs that other devices may reach; nil without any

	mu   sync.Mutex
	used []bool            // by slot number
	bars map[uint64]uint32 // guest-physical address of a mapped part → slot
}

func newSlots(vm *kvm.VM) *slots { return &slots{vm: vm, bars: make(map[uint64]uint32)} }

// peers lets devices reach each other's BARs.
type peers interface {
	mapPeer(gpa uint64, h pci.Host)
	unmapPeer(gpa uint64, h pci.Host)
}

// addRAM gives every region of RAM a slot.
func (s *slots) addRAM(mem *guestmem.Memory) error {
	for _, r := range mem.Regions() {
		slot := kvm.MemorySlot{GPA: r.Start, Size: uint64(len(r.Bytes)), Host: r.Addr()}
		if _, err := s.add(slot); err != nil {
			return err
		}
	}
	return nil
}

func (s *slots) add(slot kvm.MemorySlot) (uint32, error) {
	n := 0
	for n < len(s.used) && s.used[n] {
		n++
	}
	slot.Slot = uint32(n)
	if err := s.vm.SetMemorySlot(slot); err != nil {
		return 0, err
	}
	if n == len(s.used) {
		s.used = append(s.used, false)
	}
	s.used[n] = true
	return slot.Slot, nil
}

func (s *slots) MapHost(gpa uint64, h pci.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var flags kvm.MemoryFlags
	if h.ReadOnly {
		flags = kvm.ReadOnly
	}
	n, err := s.add(kvm.MemorySlot{GPA: gpa, Size: h.Size, Host: h.Addr, Flags: flags})
	if err != nil {
		return err
	}
	s.bars[gpa] = n
	if h.PeerToPeer && s.peers != nil {
		s.peers.mapPeer(gpa, h)
	}
	return nil
}

func (s *slots) UnmapHost(gpa uint64, h pci.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.bars[gpa]
	if !ok {
		return fmt.Errorf("unmap BAR part at %#x: not mapped", gpa)
	}
	if err := s.vm.RemoveMemorySlot(n); err != nil {
		return err
	}
	if h.PeerToPeer && s.peers != nil {
		s.peers.unmapPeer(gpa, h)
	}
	delete(s.bars, gpa)
	s.used[n] = false
	return nil
}

func (s *slots) AddDoorbell(space pci.Space, addr uint64, d pci.Doorbell) error {
	return s.vm.AttachIOEventFD(ioEvent(space, addr, d), d.EventFD)
}

func (s *slots) RemoveDoorbell(space pci.Space, addr uint64, d pci.Doorbell) error {
	return s.vm.DetachIOEventFD(ioEvent(space, addr, d), d.EventFD)
}

func ioEvent(space pci.Space, addr uint64, d pci.Doorbell) kvm.IOEvent {
	return kvm.IOEvent{Addr: addr, PIO: space == pci.IO, Len: uint32(d.Size), Match: d.Match, Data: d.Value}
}
