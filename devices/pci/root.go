package pci

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/internal/layout"
)

const (
	slots     = 32
	functions = 8
)

// Options says what a root bus is connected to. Memory, Ports, Mapper and IRQ are needed.
type Options struct {
	Memory *bus.Bus
	Ports  *bus.Bus
	Mapper Mapper
	IRQ    irq.Allocator
	MMIO64 layout.Range // for 64-bit BARs; empty puts them below 4 GiB too
	// NoPorts leaves out CF8/CFC. Linux prefers those ports for the first 256 bytes of
	// config space, two exits each, and uses ECAM at one exit where there are none.
	// The host bridge is left out with them: only guests that probe the ports look for
	// one, while Linux makes 95 accesses to learn that it is of no use. Slot 0 stays free.
	NoPorts bool
	// Config is zeroed host memory of layout.ECAMSize bytes, page-aligned and outside the
	// Go heap, at ConfigAddr. With it the guest reads config space without exits; it is
	// mapped by Assign and must outlive the VM. Nil traps reads too.
	Config     []byte
	ConfigAddr uintptr
	// Warn is told, a limited number of times for each function, what the guest asked for and the host could not do: an interrupt
	// that stays silent, a BAR that is not decoded. It may be called with locks held, from several goroutines. Nil ignores it.
	Warn func(function string, err error)
}

// Root is PCI bus 0. Slot 0 is the host bridge's. Its methods may be called concurrently.
type Root struct {
	o     Options
	table [slots * functions]atomic.Pointer[Function]

	mu     sync.Mutex
	lines  [layout.INTxLines]*sharedLine
	mem32  window
	mem64  window
	ports  window
	config []*bus.Registration

	viewMu sync.Mutex // taken after a function's lock
	views  []Host     // config memory that is mapped
}

// NewRoot makes the bus and puts config space onto the buses.
func NewRoot(o Options) (*Root, error) {
	r := &Root{
		o:     o,
		mem32: window{Range: layout.Range{Start: layout.MMIO32, Size: layout.MMIO32Size}},
		mem64: window{Range: o.MMIO64},
		ports: window{Range: layout.Range{Start: layout.PIOWindow, Size: layout.PIOWindowSize}},
	}
	fill(o.Config, 0xff)
	reg, err := o.Memory.Add("PCI ECAM", layout.ECAM, layout.ECAMSize, &ecam{root: r})
	if err != nil {
		return nil, err
	}
	r.config = append(r.config, reg)
	if o.NoPorts {
		return r, nil
	}
	reg, err = o.Ports.Add("PCI config ports", layout.PortPCIAddress, 8, &configPorts{root: r})
	if err != nil {
		r.Close()
		return nil, err
	}
	r.config = append(r.config, reg)
	bridge := NewFunction(Header{Name: "host bridge", Vendor: 0x8086, Device: 0x0d57, Class: 0x060000})
	if _, err := r.Add(0, 0, bridge); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close takes config space off the buses and unmaps the BARs of all functions. The
// functions' owners close the functions afterwards.
func (r *Root) Close() {
	r.viewMu.Lock()
	r.unmapConfig()
	r.viewMu.Unlock()
	for _, reg := range r.config {
		reg.Remove()
	}
	for i := range r.table {
		if f := r.table[i].Load(); f != nil {
			r.Remove(f)
		}
	}
}

// Add puts f into a slot as function fn; slot -1 takes the first free one, as function 0.
// It returns the slot.
func (r *Root) Add(slot, fn int, f *Function) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slot < 0 {
		slot, fn = r.freeSlot(), 0
	}
	if slot >= slots || fn < 0 || fn >= functions {
		return 0, fmt.Errorf("pci: add %s: no slot %d function %d on a bus of %d slots", f.name, slot, fn, slots)
	}
	at := slot*functions + fn
	if old := r.table[at].Load(); old != nil {
		return 0, fmt.Errorf("pci: add %s at 00:%02x.%d: %s is there", f.name, slot, fn, old.name)
	}
	if err := r.connect(slot, f); err != nil {
		return 0, err
	}
	f.mu.Lock()
	f.root, f.born = r, f.cfg.data
	f.warnings.connect(f.name, r.o.Warn)
	f.noteComputed()
	f.view.attach(r.page(at))
	f.publish()
	f.mu.Unlock()
	r.table[at].Store(f)
	r.markMultiFunction(slot)
	return slot, nil
}

func (r *Root) connect(slot int, f *Function) error {
	if f.intx.pin == 0 {
		return nil
	}
	gsi := GSI(slot, f.intx.pin)
	l := &r.lines[gsi-layout.GSIINTx]
	if *l == nil {
		line, err := r.o.IRQ.Line(gsi)
		if err != nil {
			return fmt.Errorf("pci: add %s: interrupt line %d: %w", f.name, gsi, err)
		}
		*l = &sharedLine{line: line}
	}
	f.intx.connect(*l)
	f.mu.Lock()
	f.cfg.data[RegInterruptLine] = byte(gsi)
	f.mu.Unlock()
	return nil
}

func (r *Root) freeSlot() int {
	for s := 1; s < slots; s++ {
		if r.table[s*functions].Load() == nil {
			return s
		}
	}
	return slots
}

// markMultiFunction sets the header bit that makes guests look for functions 1 to 7.
func (r *Root) markMultiFunction(slot int) {
	first := r.table[slot*functions].Load()
	if first == nil {
		return
	}
	multi := false
	for fn := 1; fn < functions; fn++ {
		multi = multi || r.table[slot*functions+fn].Load() != nil
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	first.cfg.data[RegHeaderType] &^= headerMultiFunction
	if multi {
		first.cfg.data[RegHeaderType] |= headerMultiFunction
	}
	first.publish()
}

// Remove takes f off the bus and frees its addresses. It waits for the handlers of its
// BARs, so that the caller may close the device; not to be called from one.
func (r *Root) Remove(f *Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.table {
		if r.table[i].CompareAndSwap(f, nil) {
			f.view.attach(nil)
			fill(r.page(i), 0xff)
			r.markMultiFunction(i / functions)
		}
	}
	f.mu.Lock()
	var parting []*bus.Registration
	if f.root == r {
		f.withdraw(true)
		for _, b := range f.bars {
			if b == nil {
				continue
			}
			if len(b.Doorbells) > 0 { // their eventfds go, wherever they were
				f.fail(r.o.Mapper.Decode(b.Space, 0, math.MaxUint64, nil))
			}
			r.release(b)
		}
		f.root = nil
		parting, f.parting = f.parting, nil
	}
	f.mu.Unlock()
	f.intx.connect(nil)
	for _, reg := range parting {
		reg.Remove()
	}
}

func (r *Root) release(b *barState) {
	for _, w := range []*window{&r.mem32, &r.mem64, &r.ports} {
		if b.assigned != 0 && contains(w.Range, b.assigned, b.Size) {
			w.give(b.assigned)
		}
	}
	b.assigned = 0
}

// Assign gives every BAR without one an address, those of the functions first before the others and of
// each the large ones first. There is no firmware, so it is called before the guest starts. Decoding stays off: guests switch
// it on, and size BARs with fewer accesses while it is off. The error names every BAR
// that found no room.
func (r *Root) Assign(first ...*Function) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	type want struct {
		f *Function
		i int
		b *barState
	}
	var wants []want
	for n := range r.table {
		f := r.table[n].Load()
		if f == nil {
			continue
		}
		for i, b := range f.bars { // 6 is the ROM
			if b != nil && b.assigned == 0 {
				wants = append(wants, want{f, i, b})
			}
		}
	}
	later := func(w want) int {
		if slices.Contains(first, w.f) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(later(a), later(b)), cmp.Compare(b.b.Size, a.b.Size))
	})
	var errs []error
	for _, w := range wants {
		addr, ok := r.place(w.b)
		if !ok {
			errs = append(errs, fmt.Errorf("pci: no room for %s BAR %d, %#x bytes of %v", w.f.name, w.i, w.b.Size, w.b.Space))
			continue
		}
		w.f.mu.Lock()
		w.b.assigned = addr
		w.f.putAddress(w.b, addr)
		w.f.born = w.f.cfg.data
		w.f.settle()
		w.f.publish()
		w.f.mu.Unlock()
	}
	r.viewMu.Lock()
	defer r.viewMu.Unlock()
	if len(r.views) == 0 {
		errs = append(errs, r.mapConfig())
	}
	return errors.Join(errs...)
}

// Prepare makes doorbells known to the Mapper where Assign has put them, before the guest starts: on some
// hosts that takes milliseconds, which a guest that boots would wait for.
func (r *Root) Prepare() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.table {
		if f := r.table[i].Load(); f != nil {
			f.mu.Lock()
			f.prepare()
			f.mu.Unlock()
		}
	}
}

func (r *Root) place(b *barState) (uint64, bool) {
	if b.Space == IO {
		return r.ports.take(b.Size)
	}
	if b.Is64 {
		if addr, ok := r.mem64.take(b.Size); ok {
			return addr, true
		}
	}
	return r.mem32.take(b.Size)
}

func (r *Root) inWindow(s Space, addr, size uint64) bool {
	if s == IO {
		return contains(r.ports.Range, addr, size)
	}
	return contains(r.mem32.Range, addr, size) || contains(r.mem64.Range, addr, size)
}

func (r *Root) space(s Space) *bus.Bus {
	if s == IO {
		return r.o.Ports
	}
	return r.o.Memory
}

// Reset resets all functions, as when the guest reboots. No vCPU may be running.
func (r *Root) Reset() {
	for i := range r.table {
		if f := r.table[i].Load(); f != nil {
			f.Reset()
		}
	}
}

// function returns the function at bus, slot and function as ECAM numbers them, or nil.
func (r *Root) function(bdf uint32) *Function {
	if bdf >= uint32(len(r.table)) {
		return nil
	}
	return r.table[bdf].Load()
}
