package virtio

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/devices/pci"
)

// The layout of BAR 0, and the limits that follow from it.
const (
	barSize    = 0x8000
	regionSize = 0x1000

	commonOff = 0x0000
	isrOff    = 0x1000
	deviceOff = 0x2000
	notifyOff = 0x3000
	tableOff  = 0x4000
	pbaOff    = 0x5000

	notifyMultiplier = 4
	maxQueues        = regionSize / notifyMultiplier
	maxVectors       = regionSize / 16
)

// Types of the vendor-specific capabilities (4.1.4).
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
)

// buildFunction makes the PCI function: identity, BAR and capabilities.
func (t *Transport) buildFunction() error {
	id := deviceIDBase + t.info.Type
	t.fn = pci.NewFunction(pci.Header{
		Name: "virtio " + t.o.Name, Vendor: vendorID, Device: id, SubVendor: vendorID, SubDevice: id,
		Class: t.info.Class, Revision: 1, Pin: 1,
	})
	b := pci.BAR{Size: barSize, Is64: true, Traps: []pci.Trap{
		{Off: commonOff, Size: regionSize, Handler: (*commonRegs)(t)},
		{Off: isrOff, Size: regionSize, Handler: (*isrRegs)(t)},
		{Off: deviceOff, Size: regionSize, Handler: (*deviceRegs)(t)},
		{Off: notifyOff, Size: regionSize, Handler: (*notifyRegs)(t)},
		{Off: tableOff, Size: pci.MSIXTableSize(t.msix.Len()), Handler: t.msix.Table()},
		{Off: pbaOff, Size: pci.MSIXPBASize(t.msix.Len()), Handler: t.msix.PBA()},
	}}
	for i := range t.regs {
		b.Doorbells = append(b.Doorbells, pci.Doorbell{
			Off: notifyOff + notifyMultiplier*uint64(i), EventFD: t.regs[i].bell.Int(),
		})
	}
	if err := t.fn.SetBAR(0, b); err != nil {
		return err
	}
	t.fn.OnReset(t.Reset)
	// First in the list, as guests look for MSI-X most often, one access per entry.
	if err := t.fn.AddMSIX(t.msix, 0, tableOff, 0, pbaOff); err != nil {
		return err
	}
	return t.addCapabilities()
}

func (t *Transport) addCapabilities() error {
	var multiplier [4]byte
	binary.LittleEndian.PutUint32(multiplier[:], notifyMultiplier)
	caps := []struct {
		kind        byte
		off, length uint32
		extra       []byte
	}{
		{capCommon, commonOff, commonSize, nil},
		{capNotify, notifyOff, notifyMultiplier * uint32(len(t.regs)), multiplier[:]},
		{capISR, isrOff, 1, nil},
		{capDevice, deviceOff, uint32(t.info.ConfigSize), nil},
	}
	for _, c := range caps {
		if c.length == 0 {
			continue // only devices with a configuration have the capability (4.1.4.6)
		}
		if _, err := t.fn.AddCapability(pci.CapVendor, vendorCap(c.kind, c.off, c.length, c.extra), nil); err != nil {
			return err
		}
	}
	return t.addConfigAccess()
}

// vendorCap encodes struct virtio_pci_cap behind its first two bytes (4.1.4).
func vendorCap(kind byte, off, length uint32, extra []byte) []byte {
	b := make([]byte, 14, 18)
	b[0] = byte(16 + len(extra))
	b[1] = kind
	binary.LittleEndian.PutUint32(b[6:], off)
	binary.LittleEndian.PutUint32(b[10:], length)
	return append(b, extra...)
}

// isrRegs, deviceRegs and notifyRegs are the transport as handlers of BAR parts.
type (
	isrRegs    Transport
	deviceRegs Transport
	notifyRegs Transport
)

func (r *isrRegs) Read(off uint64, p []byte) {
	clear(p)
	if off == 0 {
		p[0] = (*Transport)(r).takeISR()
	}
}

func (*isrRegs) Write(uint64, []byte) {}

func (r *deviceRegs) Read(off uint64, p []byte) {
	clear(p)
	r.configMu.RLock()
	defer r.configMu.RUnlock()
	if size := uint64(r.info.ConfigSize); off < size {
		r.dev.ReadConfig(int(off), p[:min(uint64(len(p)), size-off)])
	}
}

func (r *deviceRegs) Write(off uint64, p []byte) {
	if size := uint64(r.info.ConfigSize); off < size {
		r.dev.WriteConfig(int(off), p[:min(uint64(len(p)), size-off)])
	}
}

func (r *notifyRegs) Read(_ uint64, p []byte) { clear(p) }

// Write serves doorbells where there is no ioeventfd for them.
func (r *notifyRegs) Write(off uint64, _ []byte) {
	if i := off / notifyMultiplier; i < uint64(len(r.regs)) {
		_ = r.regs[i].bell.Signal() // fails only when closed
	}
}
