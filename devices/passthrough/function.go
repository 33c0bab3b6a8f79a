package passthrough

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/vfio"
)

// Wire is a level-triggered interrupt line of the guest that a device drives without this
// process: a signal of Trigger asserts it; the guest's end of interrupt deasserts it and
// signals Resample.
type Wire interface {
	Trigger() int
	Resample() int
	// AwaitResample blocks until Resample is signalled, and fails once the wire is closed.
	AwaitResample() error
	// Attach connects the eventfds, Detach disconnects them. Both may be repeated.
	Attach() error
	Detach() error
	Close() error
}

// Event is something that happens to a device beside its work.
type Event int

const (
	// DeviceError is an uncorrectable PCIe error: the device's state is not to be trusted.
	DeviceError Event = iota + 1
	// DeviceWanted says that the host wants the device back: an unbind waits until the
	// device is closed.
	DeviceWanted
)

// Options are what a Function needs of the VM.
type Options struct {
	IRQ irq.Allocator
	// NewWire makes a line at a pin of the I/O APIC.
	NewWire func(gsi uint32) (Wire, error)
	// Notify is told of events, from another goroutine. Nil ignores them.
	Notify func(Event)
	// Warn is told of what does not work and does not stop the VM, a limited number of times. It
	// may be called with locks held. Nil ignores it.
	Warn func(error)
}

// Function is a device on the guest's bus. New makes it; Start lets interrupts through once
// the VM has an interrupt controller; Close ends it. The Hardware stays the caller's.
type Function struct {
	hw   Hardware
	o    Options
	pci  *pci.Function
	cfg  *configMap
	desc *description

	interrupts interrupts
	watchers   []*watcher
	closed     bool

	// Guarded by the pci.Function's lock.
	command    uint16
	powerState uint8

	hasIO        bool
	hasMemory    bool
	wide, widest uint64 // bytes of 64-bit BARs, of all and of the largest
	mapped       uint64 // bytes of BARs that the guest reaches without exits
	mappings     []*sys.Mapping
	warnings     atomic.Uint64
	failed       atomic.Uint64
	configReads  atomic.Uint64
	configWrites atomic.Uint64
}

// New builds the function of a device, which is in reset state.
func New(hw Hardware, o Options) (*Function, error) {
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	raw := make([]byte, min(hw.Config().Size(), pci.ConfigSize))
	if _, err := hw.Config().ReadAt(raw, 0); err != nil {
		return nil, fmt.Errorf("read the config space: %w", err)
	}
	desc, err := parse(hw.Name(), raw)
	if err != nil {
		return nil, err
	}
	if hw.IRQInfo(vfio.INTx).Count == 0 {
		desc.header.Pin = 0
	}
	f := &Function{hw: hw, o: o, desc: desc, pci: pci.NewFunction(desc.header)}
	for _, fault := range desc.faults {
		f.warn(fault)
	}
	f.interrupts.f = f
	f.interrupts.hasPin = desc.header.Pin != 0
	holes, err := f.addCapabilities(raw)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.addBARs(raw, holes), f.addROM()); err != nil {
		return nil, err
	}
	f.cfg = desc.configMap(len(raw))
	f.pci.AddHook(pci.Hook{Size: pci.ConfigSize, Read: f.readConfig, EndsDecode: f.endsDecode, Write: f.writeConfig, Powered: f.powered})
	f.pci.OnReset(f.reset)
	if err := f.sync(); err != nil {
		return nil, err
	}
	return f, nil
}

// PCI returns the function for the root bus.
func (f *Function) PCI() *pci.Function { return f.pci }

// Name returns the device's name on the host.
func (f *Function) Name() string { return f.hw.Name() }

// Mapping returns the mapped part of a BAR whose pci.Host has an address, nil if there is none.
// Its bytes must not be touched; they serve to map them for other devices.
func (f *Function) Mapping(addr uintptr) []byte {
	for _, m := range f.mappings {
		if m.Addr() == addr {
			return m.Bytes()
		}
	}
	return nil
}

// Wide returns how many bytes its 64-bit BARs have, and how many the largest of them.
func (f *Function) Wide() (total, largest uint64) { return f.wide, f.widest }

// maxWarnings is how many warnings a device gives: a guest can cause any number.
const maxWarnings = 20

func (f *Function) warn(err error) {
	if f.warnings.Add(1) <= maxWarnings {
		f.o.Warn(fmt.Errorf("device %s: %w", f.hw.Name(), err))
	}
}

// addCapabilities builds the guest's lists and returns the holes that MSI-X makes in BARs.
func (f *Function) addCapabilities(raw []byte) (holes []hole, err error) {
	for i := range f.desc.caps {
		c := &f.desc.caps[i]
		if c.hide {
			continue
		}
		switch c.id {
		case capMSI:
			err = f.addMSI(c, raw)
		case capMSIX:
			holes, err = f.addMSIX(c, raw)
		default:
			body := make([]byte, c.size-headerBytes)
			if c.id == capPCIe {
				flags := portType(get16(raw, c.off+pcieFlags))
				body[0], body[1] = byte(flags), byte(flags>>8)
			}
			err = f.pci.AddCapabilityAt(c.off, uint8(c.id), body, nil)
		}
		if err != nil {
			return nil, err
		}
	}
	return holes, f.addExtended()
}

// addExtended builds the list of extended capabilities. It begins at 0x100: what is hidden
// there leaves a null capability (PCIe 5.0, 7.9.28) where more follow.
func (f *Function) addExtended() error {
	shown := false
	for _, c := range f.desc.ext {
		shown = shown || !c.hide
	}
	for _, c := range f.desc.ext {
		switch {
		case !shown, c.hide && c.off != extended:
			continue
		case c.hide:
			c.id, c.version = 0, 0
		}
		if err := f.pci.AddExtCapabilityAt(c.off, c.id, c.version, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *Function) addMSI(c *capability, raw []byte) error {
	control := get16(raw, c.off+msiControl)
	n := 1
	for n*2 <= min(1<<(control>>1&7), f.hw.IRQInfo(vfio.MSI).Count, pci.MaxMSI) {
		n *= 2
	}
	if f.hw.IRQInfo(vfio.MSI).Count == 0 {
		c.hide = true
		return nil
	}
	m, err := pci.NewMSI(f.o.IRQ, n)
	if err != nil {
		return err
	}
	f.interrupts.useMSI(m)
	return f.pci.AddMSIAt(c.off, m, msiLayout(control))
}

// addMSIX adds the capability and returns the places of table and PBA. Where these make no
// sense the guest is shown no MSI-X.
func (f *Function) addMSIX(c *capability, raw []byte) ([]hole, error) {
	n := int(get16(raw, c.off+msixControl)&0x7ff) + 1
	table := f.hole(get32(raw, c.off+msixTable), pci.MSIXTableSize(n))
	pba := f.hole(get32(raw, c.off+msixPBA), pci.MSIXPBASize(n))
	apart := table.bar != pba.bar || table.end <= pba.start || pba.end <= table.start
	if f.hw.IRQInfo(vfio.MSIX).Count < n || !f.fits(table, raw) || !f.fits(pba, raw) || !apart {
		f.warn(errors.New("its MSI-X capability contradicts its BARs or its interrupts, and is hidden"))
		c.hide = true
		return nil, nil
	}
	m, err := pci.NewMSIX(f.o.IRQ, n)
	if err != nil {
		return nil, err
	}
	f.interrupts.useMSIX(m)
	table.handler, pba.handler = m.Table(), m.PBA()
	return []hole{table, pba}, f.pci.AddMSIXAt(c.off, m, table.bar, table.start, pba.bar, pba.start)
}

// hole decodes a register that says where a structure is: BAR in the low three bits.
func (f *Function) hole(register uint32, size uint64) hole {
	start := uint64(register &^ 7)
	return hole{span: span{start, start + size}, bar: int(register & 7)}
}

// fits reports whether a hole lies in a memory BAR of the device.
func (f *Function) fits(h hole, raw []byte) bool {
	return h.bar < pci.MaxBARs && get32(raw, pci.RegBAR0+4*h.bar)&barIO == 0 && h.end <= f.hw.BAR(h.bar).Size()
}

// Start connects the device's interrupts, as those of slot on the root bus. The VM has its
// interrupt controller by now.
func (f *Function) Start(slot int) error {
	if err := f.interrupts.start(pci.GSI(slot, f.desc.header.Pin)); err != nil {
		return err
	}
	for kind, event := range map[vfio.IRQ]Event{vfio.Err: DeviceError, vfio.Req: DeviceWanted} {
		if f.o.Notify == nil || f.hw.IRQInfo(kind).Count == 0 {
			continue
		}
		w, err := watch(f.hw, kind, func() { f.o.Notify(event) })
		if err != nil {
			return err
		}
		f.watchers = append(f.watchers, w)
	}
	return nil
}

// Close ends the device's interrupts and its DMA, and frees the vectors. No vCPU may be
// running. The root bus lets go of the BARs after it, and the Hardware is closed last.
// Further calls do nothing.
func (f *Function) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	errs := []error{f.interrupts.stop(), f.writeCommand(0)}
	for _, w := range f.watchers {
		errs = append(errs, w.close())
	}
	f.watchers = nil
	return errors.Join(errs...)
}

// Stats counts what a device cost.
type Stats struct {
	Interrupts   InterruptStats `json:"interrupts"`
	MappedBytes  uint64         `json:"mapped_bytes"`  // of BARs, reached without exits
	ConfigReads  uint64         `json:"config_reads"`  // passed to the device
	ConfigWrites uint64         `json:"config_writes"` // passed to the device
	Failed       uint64         `json:"failed"`        // accesses that the device did not take
}

// Stats returns the counts. It may be called at any time before Close.
func (f *Function) Stats() Stats {
	return Stats{
		Interrupts: f.interrupts.stats(), MappedBytes: f.mapped,
		ConfigReads: f.configReads.Load(), ConfigWrites: f.configWrites.Load(), Failed: f.failed.Load(),
	}
}
