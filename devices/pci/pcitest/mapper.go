package pcitest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/pci"
)

// Mapper is a pci.Mapper that records host mappings and rings doorbells. It may be used
// concurrently.
type Mapper struct {
	NoDoorbells bool // refuse doorbells, as a host without ioeventfd does

	mu    sync.Mutex
	hosts map[uint64]pci.Host
	bells map[bellKey]pci.Doorbell
	fail  error
}

type bellKey struct {
	space pci.Space
	addr  uint64
}

// NewMapper returns an empty mapper.
func NewMapper() *Mapper {
	return &Mapper{hosts: map[uint64]pci.Host{}, bells: map[bellKey]pci.Doorbell{}}
}

// FailHosts makes MapHost return err from now on; nil ends that.
func (m *Mapper) FailHosts(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// MapHost implements pci.Mapper.
func (m *Mapper) MapHost(gpa uint64, h pci.Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if _, ok := m.hosts[gpa]; ok {
		return fmt.Errorf("%#x is mapped", gpa)
	}
	m.hosts[gpa] = h
	return nil
}

// UnmapHost implements pci.Mapper.
func (m *Mapper) UnmapHost(gpa uint64, h pci.Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hosts[gpa] != h {
		return fmt.Errorf("%#x is not mapped so", gpa)
	}
	delete(m.hosts, gpa)
	return nil
}

// AddDoorbell implements pci.Mapper.
func (m *Mapper) AddDoorbell(s pci.Space, addr uint64, d pci.Doorbell) error {
	if m.NoDoorbells {
		return errors.ErrUnsupported
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bells[bellKey{s, addr}] = d
	return nil
}

// RemoveDoorbell implements pci.Mapper.
func (m *Mapper) RemoveDoorbell(s pci.Space, addr uint64, d pci.Doorbell) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bells[bellKey{s, addr}] != d {
		return fmt.Errorf("no such doorbell at %#x", addr)
	}
	delete(m.bells, bellKey{s, addr})
	return nil
}

// Decode implements pci.Mapper: removed doorbells are gone already.
func (m *Mapper) Decode(pci.Space, uint64, uint64, []pci.Doorbell) error { return nil }

// Hosts returns how many host parts are mapped, and the one at gpa.
func (m *Mapper) Hosts(gpa uint64) (int, pci.Host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.hosts), m.hosts[gpa]
}

// HostAt returns the host part that covers gpa and where it is mapped.
func (m *Mapper) HostAt(gpa uint64) (at uint64, h pci.Host, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, h := range m.hosts {
		if at <= gpa && gpa-at < h.Size {
			return at, h, true
		}
	}
	return 0, pci.Host{}, false
}

// Doorbells returns how many doorbells there are.
func (m *Mapper) Doorbells() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bells)
}

// Ring does what KVM does with a guest's write before it exits: if a doorbell matches it,
// its eventfd is signalled and the result is true.
func (m *Mapper) Ring(s pci.Space, addr uint64, p []byte) bool {
	m.mu.Lock()
	d, ok := m.bells[bellKey{s, addr}]
	m.mu.Unlock()
	if !ok || d.Size != 0 && d.Size != len(p) {
		return false
	}
	var v [8]byte
	copy(v[:], p)
	if d.Match && binary.LittleEndian.Uint64(v[:]) != d.Value {
		return false
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := unix.Write(d.EventFD, one[:])
	return err == nil || err == unix.EAGAIN
}
