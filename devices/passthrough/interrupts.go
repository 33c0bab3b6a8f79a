package passthrough

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/vfio"
)

// off is no kind of interrupt.
const off vfio.IRQ = -1

// interrupts switches a device between INTx, MSI and MSI-X as the guest does. Its lock comes
// after those of pci's capabilities, from which it is called.
type interrupts struct {
	f      *Function
	hasPin bool
	byHand atomic.Bool // this process unmasks what comes by wire
	msi    *pci.MSI
	msix   *pci.MSIX

	mu      sync.Mutex
	started bool // and not stopped
	running bool // started, and not silent
	wire    Wire
	mode    vfio.IRQ
	vectors map[vfio.IRQ][]irq.Vector // of MSI and MSI-X, nil where the guest has not used one yet
	count   int                       // of MSI: how many the guest has enabled
	last    vfio.IRQ
	entered map[string]uint64
}

// InterruptStats says how a device interrupted. How often is not known: its interrupts do not
// pass through this process.
type InterruptStats struct {
	Mode    string            `json:"mode"`              // at the end: INTx, MSI, MSI-X or none
	Vectors map[string]int    `json:"vectors,omitempty"` // that the guest ever used, by mode
	Entered map[string]uint64 `json:"entered,omitempty"` // how often each mode was switched to
}

func (x *interrupts) useMSI(m *pci.MSI) {
	x.msi = m
	m.OnVector = func(i int, v irq.Vector) error { return x.addVector(vfio.MSI, i, v) }
	m.OnEnable = func(on bool, n int) error { return x.enable(vfio.MSI, on, n) }
}

func (x *interrupts) useMSIX(m *pci.MSIX) {
	x.msix = m
	m.OnVector = func(i int, v irq.Vector) error { return x.addVector(vfio.MSIX, i, v) }
	m.OnEnable = func(on bool) error { return x.enable(vfio.MSIX, on, 0) }
}

// start switches INTx on, where the device has it: what follows a reset.
func (x *interrupts) start(gsi uint32) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.started, x.running, x.mode, x.last = true, true, off, off
	x.vectors, x.entered = make(map[vfio.IRQ][]irq.Vector), make(map[string]uint64)
	if !x.hasPin {
		return nil
	}
	var err error
	if x.wire, err = x.f.o.NewWire(gsi); err != nil {
		return err
	}
	x.byHand.Store(false)
	x.enterINTx()
	return nil
}

// addVector connects a vector that the guest uses for the first time.
func (x *interrupts) addVector(kind vfio.IRQ, i int, v irq.Vector) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := x.vectors[kind]
	for len(list) <= i {
		list = append(list, nil)
	}
	list[i] = v
	if !x.running {
		return nil
	}
	x.vectors[kind] = list
	if x.mode != kind || kind == vfio.MSI && i >= x.count {
		return nil // enable takes all at once
	}
	fd, err := v.EventFD()
	if err == nil {
		err = x.f.hw.SetVector(i, fd)
	}
	if err != nil {
		list[i] = nil // who called closes it
		x.f.warn(fmt.Errorf("the guest's %v vector %d stays silent: %w", kind, i, err))
		err = pci.Reported(err)
	}
	if x.f.hw.IRQInfo(kind).NoResize {
		x.nudge(list, i)
	}
	return err
}

// nudge signals all vectors but one. A kernel that cannot add one while others are in use
// switches all off and on again; what came meanwhile is lost, which a driver survives less
// well than an interrupt too many.
func (x *interrupts) nudge(list []irq.Vector, but int) {
	for i, v := range list {
		if v != nil && i != but {
			_ = v.Trigger() // an eventfd that is full is signalled anyway
		}
	}
}

// enable follows the enable bit of MSI or MSI-X; n is how many vectors of MSI.
func (x *interrupts) enable(kind vfio.IRQ, on bool, n int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.running {
		return nil
	}
	if on {
		if kind == vfio.MSI {
			x.count = n
		}
		return x.enter(kind)
	}
	if x.mode != kind && x.mode != off { // off: the host could not give what the guest enabled
		return nil
	}
	err := x.f.hw.DisableIRQs()
	x.mode = off
	if x.hasPin {
		x.enterINTx()
	}
	return err
}

// list returns the vectors to enable: of MSI-X those that the guest has used so far, of MSI exactly as many as the guest has
// enabled, since a device that is given more sends messages that the guest did not ask for.
func (x *interrupts) list(kind vfio.IRQ) []irq.Vector {
	list := x.vectors[kind]
	if kind == vfio.MSIX {
		return list
	}
	n := min(x.count, len(list))
	return append(slices.Clone(list[:n]), make([]irq.Vector, x.count-n)...)
}

// enter switches to MSI or MSI-X with the guest's vectors, or with as many as the host has.
func (x *interrupts) enter(kind vfio.IRQ) error {
	list := x.list(kind)
	fds := make([]int, 0, len(list))
	for _, v := range list {
		fd := -1
		if v != nil {
			var err error
			if fd, err = v.EventFD(); err != nil {
				x.f.warn(fmt.Errorf("no interrupts: %w", err))
				return pci.Reported(err)
			}
		}
		fds = append(fds, fd)
	}
	err := x.f.hw.EnableMSI(kind, fds)
	var few *vfio.VectorsError
	if errors.As(err, &few) && few.Available > 0 && few.Available < len(fds) {
		n := few.Available
		if kind == vfio.MSI {
			n = 1 << (bits.Len(uint(n)) - 1)
		}
		x.f.warn(fmt.Errorf("%w; the guest's other vectors stay silent", err))
		err = x.f.hw.EnableMSI(kind, fds[:n])
	}
	wasINTx := x.mode == vfio.INTx
	x.note(kind, err)
	if wasINTx {
		err = errors.Join(err, x.wire.Detach())
	}
	if err != nil {
		x.f.warn(fmt.Errorf("no interrupts: %w", err))
	}
	return pci.Reported(err)
}

// enterINTx switches to the wired interrupt. That it can't be had is no reason to stop: the
// guest may use MSI.
func (x *interrupts) enterINTx() {
	err := x.connectINTx()
	x.note(vfio.INTx, err)
	if err != nil {
		x.f.warn(fmt.Errorf("no wired interrupt: %w", err))
	}
}

// connectINTx enables the interrupt masked, and unmasks it when both eventfds are in place.
func (x *interrupts) connectINTx() error {
	if err := x.f.hw.EnableINTx(x.wire.Trigger()); err != nil {
		return err
	}
	err := x.wire.Attach()
	if err == nil && x.f.hw.IRQInfo(vfio.INTx).Maskable {
		if err = x.unmaskAfterUse(); err == nil {
			err = x.f.hw.UnmaskINTx()
		}
	}
	if err != nil {
		return errors.Join(err, x.f.hw.DisableIRQs(), x.wire.Detach())
	}
	return nil
}

// note remembers the mode that was switched to.
func (x *interrupts) note(kind vfio.IRQ, err error) {
	if x.mode = kind; err != nil {
		x.mode = off
	}
	x.last = x.mode
	x.entered[modeName(x.mode)]++
}

func modeName(kind vfio.IRQ) string {
	if kind == off {
		return "none"
	}
	return kind.String()
}

// silence switches all off until revive. Vectors that the guest had stay allocated.
func (x *interrupts) silence() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.running {
		return nil
	}
	x.running = false
	errs := []error{x.f.hw.DisableIRQs()}
	if x.wire != nil {
		errs = append(errs, x.wire.Detach())
	}
	x.mode = off
	return errors.Join(errs...)
}

// revive switches INTx on again, where the device has it.
func (x *interrupts) revive() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running = true
	if x.wire != nil {
		x.enterINTx()
	}
}

// stop switches all off, also after silence: a reset may have failed between that and revive.
func (x *interrupts) stop() error {
	x.mu.Lock()
	if !x.started {
		x.mu.Unlock()
		return nil
	}
	x.started, x.running = false, false
	errs := []error{x.f.hw.DisableIRQs()}
	if x.wire != nil {
		errs = append(errs, x.wire.Close())
	}
	x.mu.Unlock()
	return errors.Join(append(errs, x.closeVectors())...)
}

// closeVectors takes the eventfds out of KVM and frees them.
func (x *interrupts) closeVectors() error {
	var errs []error
	if x.msi != nil {
		errs = append(errs, x.msi.Close())
	}
	if x.msix != nil {
		errs = append(errs, x.msix.Close())
	}
	return errors.Join(errs...)
}

func (x *interrupts) stats() InterruptStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := InterruptStats{Mode: modeName(x.last), Vectors: make(map[string]int), Entered: maps.Clone(x.entered)}
	for kind, list := range x.vectors {
		for _, v := range list {
			if v != nil {
				s.Vectors[kind.String()]++
			}
		}
	}
	return s
}
