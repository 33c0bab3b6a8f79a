package pci

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/bus"
)

// Header is the identity of a function.
type Header struct {
	Name                 string // for errors
	Vendor, Device       uint16
	SubVendor, SubDevice uint16
	Class                uint32 // class, subclass, programming interface: 0xCCSSPP
	Revision             uint8
	Pin                  uint8 // 0 for no INTx, 1 for INTA# to 4 for INTD#
}

// Function is one function with a type 0 header. It is built (SetBAR, AddCapability …)
// before Root.Add; from then on its methods may be called concurrently.
type Function struct {
	name string
	intx INTx

	mu   sync.Mutex
	cfg  config
	born [ConfigSize]byte // cfg.data before the guest ran, for Reset
	view *view
	// computed says that a hook computes what the guest reads.
	computed atomic.Bool
	bars     [MaxBARs + 1]*barState // the ROM's comes last
	hooks    []*Hook
	resets   []func()
	nextCap  int // where the next capability goes
	lastCap  int // the register that points to it
	nextExt  int
	lastExt  int
	express  bool // has extended config space
	root     *Root
	parting  []*bus.Registration // detached with calls in flight, which Root.Remove waits for
	faults   uint64              // decode changes that failed
	fault    error
	warnings warnings
}

// NewFunction returns a function without BARs and capabilities.
func NewFunction(h Header) *Function {
	f := &Function{name: h.Name, view: &view{}, nextCap: firstCap, lastCap: RegCapabilities, nextExt: firstExtCap}
	c := &f.cfg
	c.put16(RegVendor, h.Vendor)
	c.put16(RegDevice, h.Device)
	c.put32(RegRevision, h.Class<<8|uint32(h.Revision))
	c.put16(RegSubVendor, h.SubVendor)
	c.put16(RegSubDevice, h.SubDevice)
	c.data[RegInterruptPin] = h.Pin
	f.intx.pin, f.intx.view = h.Pin, f.view
	c.mask16(RegCommand, CommandMaster|commandParity|commandSERR)
	c.write[RegCacheLine] = 0xff
	c.write[RegInterruptLine] = 0xff
	if h.Pin != 0 {
		c.write[RegCommand+1] |= CommandINTxDisable >> 8
	}
	return f
}

// Name returns the name given at creation.
func (f *Function) Name() string { return f.name }

// SetBAR describes register index. The function keeps b's part lists.
func (f *Function) SetBAR(index int, b BAR) error {
	if err := b.validate(f.name, index); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root != nil {
		return fmt.Errorf("pci: %s: BAR %d set after the function was added", f.name, index)
	}
	reg := RegBAR0 + 4*index
	f.bars[index] = &barState{BAR: b, reg: reg}
	mask := ^(b.Size - 1)
	f.cfg.put32(reg, b.flags())
	f.cfg.mask32(reg, uint32(mask))
	if b.Is64 {
		f.cfg.mask32(reg+4, uint32(mask>>32))
	}
	if b.Space == IO {
		f.cfg.mask32(reg, uint32(mask)&0xffff)
		f.cfg.write[RegCommand] |= CommandIO
	} else {
		f.cfg.write[RegCommand] |= CommandMemory
	}
	return nil
}

// LeastROM is the smallest size that a ROM's register can tell, in bytes.
const LeastROM = 2048

// SetROM describes the expansion ROM: a memory BAR that is decoded only while its own enable
// bit is set, too (PCI 3.0, 6.2.5.2).
func (f *Function) SetROM(b BAR) error {
	if b.Size < LeastROM || b.Space != Memory || b.Is64 {
		return fmt.Errorf("pci: %s: a ROM of %#x bytes of %v is none", f.name, b.Size, b.Space)
	}
	if err := b.validate(f.name, 0); err != nil {
		return fmt.Errorf("expansion ROM: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root != nil {
		return fmt.Errorf("pci: %s: ROM set after the function was added", f.name)
	}
	f.bars[MaxBARs] = &barState{BAR: b, reg: RegROM, rom: true}
	f.cfg.mask32(RegROM, ^uint32(b.Size-1)|romEnable)
	f.cfg.write[RegCommand] |= CommandMemory
	return nil
}

// AddHook registers a hook. Hooks are called in the order of their registration.
func (f *Function) AddHook(h Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks = append(f.hooks, &h)
}

// OnReset registers fn to be called by Reset, without the function's lock.
func (f *Function) OnReset(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets = append(f.resets, fn)
}

// Edit gives fn the raw config bytes and the mask of bits that the guest may write, to
// build what the other methods do not (a passthrough device copies its header so).
// BAR registers and COMMAND belong to the function: fn leaves them alone. The function
// then has extended config space.
func (f *Function) Edit(fn func(data, writable []byte)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.express = true
	fn(f.cfg.data[:], f.cfg.write[:])
}

// ReadConfig answers the guest's read at off. Bytes beyond the space read as ones.
func (f *Function) ReadConfig(off int, p []byte) {
	if off < 0 || off >= ConfigSize {
		fill(p, 0xff)
		return
	}
	n := min(len(p), ConfigSize-off)
	fill(p[n:], 0xff)
	p = p[:n]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emulated(off, p)
	if off <= RegStatus && RegStatus < off+len(p) && f.intx.asserted() {
		p[RegStatus-off] |= statusInterrupt
	}
	for _, h := range f.hooks {
		if h.Read == nil {
			continue
		}
		if at, part := h.clip(off, p); part != nil {
			h.Read(at, part)
		}
	}
}

// emulated copies the bytes from off on, without what is computed when they are read.
func (f *Function) emulated(off int, p []byte) {
	copy(p, f.cfg.data[off:])
	if off+len(p) > firstExtCap && !f.express {
		// Conventional PCI ends at 256 bytes. Zeros would be a list without entries,
		// which Linux walks again and again for a host bridge; ones are no list.
		fill(p[max(firstExtCap-off, 0):], 0xff)
	}
}

// WriteConfig applies the guest's write at off. Bytes beyond the space are dropped.
func (f *Function) WriteConfig(off int, p []byte) {
	if off < 0 || off >= ConfigSize {
		return
	}
	p = p[:min(len(p), ConfigSize-off)]
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.publish()
	f.armHooks(off, p)
	f.cfg.store(off, p)
	decode := off < RegCommand+2 && RegCommand < off+len(p)
	if off < RegBAR0+4*MaxBARs && RegBAR0 < off+len(p) || off < RegROM+4 && RegROM < off+len(p) {
		f.noteSizing(off, p)
		decode = true
	}
	ends := f.hookEnds(off, p)
	if decode || ends {
		f.withdraw(ends)
	}
	f.intx.disable(f.cfg.get16(RegCommand)&CommandINTxDisable != 0)
	powered := f.hookWrites(off, p)
	if decode || ends || powered {
		f.settle()
	}
}

func (f *Function) hookEnds(off int, p []byte) bool {
	ends := false
	for _, h := range f.hooks {
		if h.EndsDecode == nil {
			continue
		}
		if at, part := h.clip(off, p); part != nil && h.EndsDecode(at, part) {
			ends = true
		}
	}
	return ends
}

// hookWrites passes the write on, and reports whether any hook that was called has a say
// in decoding.
func (f *Function) hookWrites(off int, p []byte) bool {
	powered := false
	for _, h := range f.hooks {
		at, part := h.clip(off, p)
		if part == nil {
			continue
		}
		if h.Write != nil {
			h.Write(at, part)
		}
		powered = powered || h.Powered != nil
	}
	return powered
}

// Refresh maps and unmaps BARs after something that hooks report through Powered changed
// without a write of the guest, such as a reset by the host. Not to be called in a hook.
func (f *Function) Refresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle()
}

// Fault returns how many decode changes could not be carried out (a BAR moved onto
// another, a memory slot refused) and the last one's error.
func (f *Function) Fault() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults, f.fault
}

func (f *Function) fail(err error) {
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		return
	}
	f.faults++
	f.fault = fmt.Errorf("pci: %s: %w", f.name, err)
	f.warnings.add(err)
}

// Reset puts the function into the state in which Assign left it: nothing is decoded, BARs are
// where Assign put them. Capabilities and OnReset functions follow. No vCPU may be running.
func (f *Function) Reset() {
	f.mu.Lock()
	f.withdraw(true)
	kind := f.cfg.data[RegHeaderType] // follows who else is in the slot
	f.cfg.data = f.born
	f.cfg.data[RegHeaderType] = kind
	for _, b := range f.bars {
		if b != nil {
			f.putAddress(b, b.assigned)
		}
	}
	f.intx.disable(false)
	for _, h := range f.hooks {
		h.written = false
	}
	resets := f.resets
	f.mu.Unlock()
	for _, fn := range resets {
		fn()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noteComputed() && f.root != nil {
		f.root.remapConfig()
	}
	f.publish()
}

// AccessBAR performs an access to a trapped part of BAR index as if the guest had made
// it, whether or not the BAR is decoded. It returns false if no one trap covers it.
func (f *Function) AccessBAR(index int, off uint64, p []byte, write bool) bool {
	if index < 0 || index >= MaxBARs || f.bars[index] == nil {
		return false
	}
	for _, t := range f.bars[index].Traps {
		if off < t.Off || off-t.Off >= t.Size || uint64(len(p)) > t.Size-(off-t.Off) {
			continue
		}
		if write {
			t.Handler.Write(off-t.Off, p)
		} else {
			t.Handler.Read(off-t.Off, p)
		}
		return true
	}
	return false
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}
