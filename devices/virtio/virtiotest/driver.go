package virtiotest

import (
	"testing"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
	"github.com/stile-vmm/stile/internal/layout"
)

// Common configuration registers (virtio 1.3, 4.1.4.3).
const (
	DeviceSelect  = 0x00
	DeviceFeature = 0x04
	DriverSelect  = 0x08
	DriverFeature = 0x0c
	ConfigVector  = 0x10
	NumQueues     = 0x12
	Status        = 0x14
	Generation    = 0x15
	QueueSelect   = 0x16
	QueueSize     = 0x18
	QueueVector   = 0x1a
	QueueEnable   = 0x1c
	QueueNotify   = 0x1e
	QueueDesc     = 0x20
	QueueDriver   = 0x28
	QueueDevice   = 0x30
)

// Status bits (virtio 1.3, 2.1).
const (
	Acknowledge = 1
	DriverBit   = 2
	DriverOK    = 4
	FeaturesOK  = 8
	NeedsReset  = 64
)

// Driver is a guest's driver of one virtio function.
type Driver struct {
	Slot   int
	BAR    uint64 // address of BAR 0
	Caps   map[byte]Cap
	MSIX   int // offset of the capability in config space
	PCICfg int
	Rings  []*virtqtest.Ring

	m *Machine
	t testing.TB
}

// Cap is a decoded virtio_pci_cap.
type Cap struct {
	BAR      int
	Off, Len uint64
	Extra    uint32
}

// Capability types (virtio 1.3, 4.1.4).
const (
	CapCommon = 1
	CapNotify = 2
	CapISR    = 3
	CapDevice = 4
	CapPCI    = 5
)

func probe(m *Machine, slot int) *Driver {
	m.t.Helper()
	d := &Driver{Slot: slot, m: m, t: m.t, Caps: map[byte]Cap{}}
	d.BAR = d.Config(pci.RegBAR0, 4)&^15 | d.Config(pci.RegBAR0+4, 4)<<32
	d.SetConfig(pci.RegCommand, 2, pci.CommandMemory|pci.CommandMaster)
	for at := int(d.Config(pci.RegCapabilities, 1)); at != 0; at = int(d.Config(at+1, 1)) {
		switch d.Config(at, 1) {
		case pci.CapMSIX:
			d.MSIX = at
		case pci.CapVendor:
			kind := byte(d.Config(at+3, 1))
			d.Caps[kind] = Cap{BAR: int(d.Config(at+4, 1)), Off: d.Config(at+8, 4), Len: d.Config(at+12, 4)}
			if kind == CapNotify {
				c := d.Caps[kind]
				c.Extra = uint32(d.Config(at+16, 4))
				d.Caps[kind] = c
			}
			if kind == CapPCI {
				d.PCICfg = at
			}
		}
	}
	return d
}

func (d *Driver) config(off int) uint64 {
	return layout.ECAM + uint64(d.Slot)<<15 + uint64(off)
}

// Config reads n bytes of config space, SetConfig writes them.
func (d *Driver) Config(off, n int) uint64 { return d.m.Read(d.config(off), n) }

// SetConfig writes n bytes of config space.
func (d *Driver) SetConfig(off, n int, v uint64) { d.m.Write(d.config(off), n, v) }

// Common reads n bytes of the common configuration, SetCommon writes them.
func (d *Driver) Common(off uint64, n int) uint64 {
	return d.m.Read(d.BAR+d.Caps[CapCommon].Off+off, n)
}

// SetCommon writes n bytes of the common configuration.
func (d *Driver) SetCommon(off uint64, n int, v uint64) {
	d.m.Write(d.BAR+d.Caps[CapCommon].Off+off, n, v)
}

// Device reads n bytes of the device's configuration.
func (d *Driver) Device(off uint64, n int) uint64 {
	return d.m.Read(d.BAR+d.Caps[CapDevice].Off+off, n)
}

// ISR reads the interrupt status.
func (d *Driver) ISR() uint64 { return d.m.Read(d.BAR+d.Caps[CapISR].Off, 1) }

// Message returns the message that Start programs for vector i.
func (d *Driver) Message(i int) irq.Message {
	return irq.Message{Address: 0xfee00000, Data: uint32(d.Slot<<8 | i)}
}

// Reset resets the device and waits for it.
func (d *Driver) Reset() {
	d.SetCommon(Status, 1, 0)
	for d.Common(Status, 1) != 0 {
	}
}

// Features returns what the device offers.
func (d *Driver) Features() uint64 {
	d.SetCommon(DeviceSelect, 4, 0)
	lo := d.Common(DeviceFeature, 4)
	d.SetCommon(DeviceSelect, 4, 1)
	return lo | d.Common(DeviceFeature, 4)<<32
}

// Accept negotiates features. It reports whether the device agreed.
func (d *Driver) Accept(features uint64) bool {
	d.SetCommon(Status, 1, Acknowledge)
	d.SetCommon(Status, 1, Acknowledge|DriverBit)
	d.SetCommon(DriverSelect, 4, 0)
	d.SetCommon(DriverFeature, 4, features&0xffffffff)
	d.SetCommon(DriverSelect, 4, 1)
	d.SetCommon(DriverFeature, 4, features>>32)
	d.SetCommon(Status, 1, Acknowledge|DriverBit|FeaturesOK)
	return d.Common(Status, 1)&FeaturesOK != 0
}

// EnableMSIX programs n vectors with Message and unmasks them, as Linux does.
func (d *Driver) EnableMSIX(n int) {
	const enable, maskAll = 1 << 15, 1 << 14
	table := d.BAR + d.Config(d.MSIX+4, 4)&^7
	d.SetConfig(d.MSIX+2, 2, enable|maskAll)
	for i := range n {
		e, msg := table+16*uint64(i), d.Message(i)
		d.m.Write(e, 4, msg.Address)
		d.m.Write(e+4, 4, msg.Address>>32)
		d.m.Write(e+8, 4, uint64(msg.Data))
		d.m.Write(e+12, 4, 0)
	}
	d.SetConfig(d.MSIX+2, 2, enable)
}

// SetupQueue makes a ring of the device's size for queue i and enables it with vector.
func (d *Driver) SetupQueue(i int, features uint64, vector int) *virtqtest.Ring {
	d.t.Helper()
	return d.SetupQueueWith(i, features, vector, func() {})
}

// SetupQueueWith is SetupQueue with something done before the queue is enabled.
func (d *Driver) SetupQueueWith(i int, features uint64, vector int, before func()) *virtqtest.Ring {
	d.t.Helper()
	d.SetCommon(QueueSelect, 2, uint64(i))
	size := uint16(d.Common(QueueSize, 2))
	base, _ := d.m.Alloc(32 * (uint64(size) + 1))
	r := virtqtest.New(d.t, d.m.Mem, base, size)
	r.Config.EventIdx = features&(1<<29) != 0
	d.SetCommon(QueueDesc, 4, r.Config.Desc&0xffffffff)
	d.SetCommon(QueueDesc+4, 4, r.Config.Desc>>32)
	d.SetCommon(QueueDriver, 8, r.Config.Avail)
	d.SetCommon(QueueDevice, 8, r.Config.Used)
	d.SetCommon(QueueVector, 2, uint64(vector))
	before()
	d.SetCommon(QueueEnable, 2, 1)
	return r
}

// Start brings the device up with the features, all queues, and MSI-X where it has more
// than no vectors asked for. Vector 0 is for configuration changes, the others are dealt
// to the queues.
func (d *Driver) Start(features uint64, vectors int) {
	d.t.Helper()
	d.Reset()
	if !d.Accept(features) {
		d.t.Fatalf("device refused features %#x of %#x", features, d.Features())
	}
	if vectors > 0 {
		d.EnableMSIX(vectors)
		d.SetCommon(ConfigVector, 2, 0)
	}
	d.Rings = nil
	for i := range int(d.Common(NumQueues, 2)) {
		vector := 0xffff
		if vectors > 0 {
			vector = min(i+1, vectors-1)
		}
		d.Rings = append(d.Rings, d.SetupQueue(i, features, vector))
	}
	d.SetCommon(Status, 1, Acknowledge|DriverBit|FeaturesOK|DriverOK)
}

// Kick rings queue i's doorbell, whether or not the device wants that.
func (d *Driver) Kick(i int) {
	n := d.Caps[CapNotify]
	d.m.Write(d.BAR+n.Off+uint64(i)*uint64(n.Extra), 2, uint64(i))
}
