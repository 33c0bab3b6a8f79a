// Package virtiotest drives virtio devices as a guest's driver does: through config
// space, BARs and virtqueues. For tests.
package virtiotest

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// MemorySize is the guest RAM of a Machine, in bytes.
const MemorySize = 16 << 20

// Machine is a VM without vCPUs: memory, buses, a PCI root and fake interrupts.
type Machine struct {
	Mem    *guestmem.Memory
	Memory *bus.Bus
	Ports  *bus.Bus
	Root   *pci.Root
	IRQ    *pcitest.IRQ
	Mapper *pcitest.Mapper
	Notice func(string) // of devices plugged in from then on; may be nil

	t     testing.TB
	alloc atomic.Uint64 // next free guest-physical address
	exits atomic.Int64
}

// New makes a machine that lives until the end of the test.
func New(t testing.TB) *Machine {
	t.Helper()
	m := &Machine{
		Mem: virtqtest.Memory(t, MemorySize), Memory: &bus.Bus{}, Ports: &bus.Bus{},
		IRQ: pcitest.NewIRQ(0), Mapper: pcitest.NewMapper(), t: t,
	}
	m.alloc.Store(layout.PageSize)
	root, err := pci.NewRoot(pci.Options{
		Memory: m.Memory, Ports: m.Ports, Mapper: m.Mapper, IRQ: m.IRQ,
		MMIO64: layout.Range{Start: layout.MMIO64(MemorySize), Size: layout.GiB},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Root = root
	t.Cleanup(root.Close)
	return m
}

// Plug puts a device onto the bus and returns its driver.
func (m *Machine) Plug(dev virtio.Device) (*virtio.Transport, *Driver) {
	m.t.Helper()
	tr, err := virtio.New(dev, virtio.Options{Name: "test", Memory: m.Mem, IRQ: m.IRQ, Notice: m.Notice})
	if err != nil {
		m.t.Fatal(err)
	}
	slot, err := m.Root.Add(-1, 0, tr.Function())
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.Root.Assign(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		m.Root.Remove(tr.Function())
		if err := tr.Close(); err != nil {
			m.t.Error(err)
		}
	})
	return tr, probe(m, slot)
}

// Alloc returns n bytes of guest memory: their address and the bytes themselves.
func (m *Machine) Alloc(n uint64) (uint64, []byte) {
	m.t.Helper()
	size := (n + 63) &^ 63
	gpa := m.alloc.Add(size) - size
	b, err := m.Mem.Slice(gpa, n)
	if err != nil {
		m.t.Fatalf("allocate %d bytes of guest memory: %v", n, err)
	}
	return gpa, b
}

// Exits returns how many accesses have reached the buses.
func (m *Machine) Exits() int64 { return m.exits.Load() }

// Read is a guest's memory read of 1, 2, 4 or 8 bytes.
func (m *Machine) Read(addr uint64, n int) uint64 {
	var b [8]byte
	m.exits.Add(1)
	m.Memory.Read(addr, b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

// Write is a guest's memory write of 1, 2, 4 or 8 bytes; doorbells come first.
func (m *Machine) Write(addr uint64, n int, v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	if m.Mapper.Ring(pci.Memory, addr, b[:n]) {
		return
	}
	m.exit(addr, n, v)
}

// exit has bytes of its own, which are an allocation: what a doorbell costs in benchmarks is the device's.
func (m *Machine) exit(addr uint64, n int, v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	m.exits.Add(1)
	m.Memory.Write(addr, b[:n])
}
