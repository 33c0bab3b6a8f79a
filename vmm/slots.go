package vmm

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/guestmem"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
	"github.com/stile-vmm/stile/kvm"
)

// slots owns the numbers of the VM's memory slots, and makes BAR parts reachable: host
// memory as slots, doorbells as ioeventfds. It implements pci.Mapper.
type slots struct {
	vm    *kvm.VM
	peers peers // told of BARs that other devices may reach; nil without any

	mu    sync.Mutex
	used  []bool            // by slot number
	bars  map[uint64]uint32 // guest-physical address of a mapped part → slot
	bells []bell
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
	if most := s.vm.CheckExtension(uapi.CapNrMemslots); most > 0 && n >= most {
		return 0, fmt.Errorf("all %d memory slots that KVM gives a VM are in use: give it fewer devices", most)
	}
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

// bell is a doorbell that KVM knows of.
type bell struct {
	event kvm.IOEvent
	fd    int
	used  bool // by a BAR; others are kept for when it is decoded again
}

func (s *slots) AddDoorbell(space pci.Space, addr uint64, d pci.Doorbell) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	event := ioEvent(space, addr, d)
	for i := range s.bells {
		if b := &s.bells[i]; b.event == event && b.fd == d.EventFD {
			b.used = true
			return nil
		}
	}
	// A doorbell that has moved is not kept where it was: a guest that moves it without end must not
	// fill KVM's bus.
	if err := s.drop(func(b bell) bool { return !b.used && b.fd == d.EventFD }); err != nil {
		return err
	}
	if err := s.vm.AttachIOEventFD(event, d.EventFD); err != nil {
		return err
	}
	s.bells = append(s.bells, bell{event, d.EventFD, true})
	return nil
}

// RemoveDoorbell keeps the doorbell, which Decode detaches if something else comes to its place.
func (s *slots) RemoveDoorbell(space pci.Space, addr uint64, d pci.Doorbell) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	event := ioEvent(space, addr, d)
	for i := range s.bells {
		if b := &s.bells[i]; b.event == event && b.fd == d.EventFD && b.used {
			b.used = false
			return nil
		}
	}
	return fmt.Errorf("remove doorbell at %v: eventfd %d has no doorbell there", event, d.EventFD)
}

func (s *slots) Decode(space pci.Space, addr, size uint64, bells []pci.Doorbell) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop(func(b bell) bool {
		if b.used || b.event.PIO != (space == pci.IO) || b.event.Addr < addr || b.event.Addr-addr >= size {
			return false
		}
		return !slices.ContainsFunc(bells, func(d pci.Doorbell) bool {
			return d.EventFD == b.fd && ioEvent(space, addr+d.Off, d) == b.event
		})
	})
}

// drop detaches the bells that gone selects.
func (s *slots) drop(gone func(bell) bool) error {
	var errs []error
	s.bells = slices.DeleteFunc(s.bells, func(b bell) bool {
		if !gone(b) {
			return false
		}
		errs = append(errs, s.vm.DetachIOEventFD(b.event, b.fd))
		return true
	})
	return errors.Join(errs...)
}

func ioEvent(space pci.Space, addr uint64, d pci.Doorbell) kvm.IOEvent {
	return kvm.IOEvent{Addr: addr, PIO: space == pci.IO, Len: uint32(d.Size), Match: d.Match, Data: d.Value}
}
