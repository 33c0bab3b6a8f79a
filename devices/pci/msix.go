package pci

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/irq"
)

const (
	// MaxMSIX is the most vectors an MSI-X table can have.
	MaxMSIX = 2048

	msixEntrySize = 16
	msixControl   = 2 // offset of message control in the capability
	msixEnable    = 1 << 15
	msixMaskAll   = 1 << 14
	msixEntryMask = 1 // of an entry's vector control
)

// MSIXTableSize returns the bytes of a table for n vectors, MSIXPBASize those of its
// pending bit array.
func MSIXTableSize(n int) uint64 { return uint64(n) * msixEntrySize }

// MSIXPBASize returns the bytes of the pending bit array for n vectors.
func MSIXPBASize(n int) uint64 { return uint64(n+63) / 64 * 8 }

// MSIX is a function's MSI-X capability with its table and pending bits (PCI 3.0, 6.8.2).
// Vectors are allocated when the guest first unmasks them. All methods may be called
// concurrently.
type MSIX struct {
	alloc irq.Allocator

	// OnVector, if not nil, is called when vector i was allocated, with the capability
	// locked: a device passed through connects its trigger to v.EventFD here.
	OnVector func(i int, v irq.Vector) error
	// OnEnable, if not nil, is called when the guest switches MSI-X on or off. Vectors
	// are routed before it is called with true, so that the trigger is in place before
	// the enable bit reaches a real device.
	OnEnable func(on bool) error

	enabled atomic.Bool

	mu      sync.Mutex
	maskAll bool
	entries []msixEntry
	failed  error
	warn    func(error) // of the function that has the capability
}

type msixEntry struct {
	raw     [msixEntrySize]byte // address, data, vector control
	vector  atomic.Pointer[irq.Vector]
	routed  bool
	pending bool // triggered before there was a vector
}

// NewMSIX makes a capability of n vectors, all masked.
func NewMSIX(alloc irq.Allocator, n int) (*MSIX, error) {
	if n < 1 || n > MaxMSIX {
		return nil, fmt.Errorf("pci: MSI-X with %d vectors, not 1 to %d", n, MaxMSIX)
	}
	m := &MSIX{alloc: alloc, entries: make([]msixEntry, n)}
	m.maskEntries()
	return m, nil
}

// AddMSIX gives f the capability. The caller puts Table and PBA into the BARs as traps
// at the offsets named here.
func (f *Function) AddMSIX(m *MSIX, tableBAR int, tableOff uint64, pbaBAR int, pbaOff uint64) error {
	return f.AddMSIXAt(f.nextCap, m, tableBAR, tableOff, pbaBAR, pbaOff)
}

// AddMSIXAt is AddMSIX at an offset in config space of the caller's choice.
func (f *Function) AddMSIXAt(at int, m *MSIX, tableBAR int, tableOff uint64, pbaBAR int, pbaOff uint64) error {
	if tableOff%8 != 0 || pbaOff%8 != 0 || tableOff > 1<<31 || pbaOff > 1<<31 {
		return fmt.Errorf("pci: %s: MSI-X table at %#x or PBA at %#x not aligned to 8", f.name, tableOff, pbaOff)
	}
	var body [10]byte
	binary.LittleEndian.PutUint16(body[0:], uint16(len(m.entries)-1))
	binary.LittleEndian.PutUint32(body[2:], uint32(tableOff)|uint32(tableBAR))
	binary.LittleEndian.PutUint32(body[6:], uint32(pbaOff)|uint32(pbaBAR))
	if err := f.AddCapabilityAt(at, CapMSIX, body[:], []byte{0, (msixEnable | msixMaskAll) >> 8}); err != nil {
		return err
	}
	m.warn = f.warnings.add
	f.AddHook(Hook{Off: at + msixControl, Size: 2, Write: func(int, []byte) {
		m.control(f.cfg.get16(at + msixControl))
	}})
	f.OnReset(func() {
		f.mu.Lock()
		f.cfg.data[at+msixControl+1] &^= (msixEnable | msixMaskAll) >> 8
		f.mu.Unlock()
		m.Reset()
	})
	return nil
}

// Len returns the number of vectors.
func (m *MSIX) Len() int { return len(m.entries) }

// Enabled reports whether the guest switched MSI-X on.
func (m *MSIX) Enabled() bool { return m.enabled.Load() }

// Table returns the handler of the table, PBA that of the pending bit array.
func (m *MSIX) Table() bus.Handler { return (*msixTable)(m) }

// PBA returns the handler of the pending bit array.
func (m *MSIX) PBA() bus.Handler { return (*msixPBA)(m) }

// Trigger raises vector i. While the guest masks it, it is pending. i beyond the table
// does nothing.
func (m *MSIX) Trigger(i int) error {
	if i < 0 || i >= len(m.entries) {
		return nil
	}
	e := &m.entries[i]
	if v := e.vector.Load(); v != nil {
		return (*v).Trigger()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := e.vector.Load(); v != nil {
		return (*v).Trigger()
	}
	e.pending = true
	return m.failed
}

// Vector returns vector i, nil before its allocation.
func (m *MSIX) Vector(i int) irq.Vector {
	if i < 0 || i >= len(m.entries) {
		return nil
	}
	if v := m.entries[i].vector.Load(); v != nil {
		return *v
	}
	return nil
}

// EventFD returns the descriptor that raises vector i when it is signalled, also while the guest masks it; -1 for i beyond the table.
func (m *MSIX) EventFD(i int) (int, error) {
	if i < 0 || i >= len(m.entries) {
		return -1, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.vector(i)
	if err != nil {
		return -1, fmt.Errorf("pci: MSI-X vector %d: %w", i, err)
	}
	return v.EventFD()
}

// Err returns the last error of an allocation or routing that the guest asked for. The
// guest does not see such errors: its interrupt stays away.
func (m *MSIX) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Reset disables MSI-X, masks all vectors and forgets what is pending. Vectors stay
// allocated.
func (m *MSIX) Reset() {
	m.control(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.maskEntries()
}

// Close frees all vectors. The capability must not be used any more.
func (m *MSIX) Close() error {
	m.control(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	var first error
	for i := range m.entries {
		if v := m.entries[i].vector.Swap(nil); v != nil {
			if err := (*v).Close(); err != nil && first == nil {
				first = fmt.Errorf("pci: close MSI-X vector %d: %w", i, err)
			}
		}
	}
	return first
}

func (m *MSIX) maskEntries() {
	for i := range m.entries {
		m.entries[i].raw = [msixEntrySize]byte{12: msixEntryMask}
	}
}

// control applies the capability's message control word.
func (m *MSIX) control(v uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, on := m.enabled.Load(), v&msixEnable != 0
	m.maskAll = v&msixMaskAll != 0
	if was && !on {
		m.note(call(m.OnEnable, false))
	}
	m.enabled.Store(on)
	for i := range m.entries {
		m.update(i)
		if !on {
			m.drop(i)
		}
	}
	if on && !was {
		m.note(call(m.OnEnable, true))
	}
}

func call(fn func(bool) error, on bool) error {
	if fn == nil {
		return nil
	}
	return fn(on)
}

func (m *MSIX) note(err error) {
	if err == nil {
		return
	}
	m.failed = err
	if m.warn != nil {
		m.warn(err)
	}
}

// drop forgets what vector i has pending.
func (m *MSIX) drop(i int) {
	e := &m.entries[i]
	e.pending = false
	if v := e.vector.Load(); v != nil {
		(*v).Pending()
	}
}

// update routes vector i, or ends its routing, as the registers say.
func (m *MSIX) update(i int) {
	e := &m.entries[i]
	live := m.enabled.Load() && !m.maskAll && e.raw[12]&msixEntryMask == 0
	if !live {
		if e.routed {
			e.routed = false
			m.note((*e.vector.Load()).Unroute())
		}
		return
	}
	v, err := m.vector(i)
	if err != nil {
		m.note(silentVector("MSI-X", i, err))
		return
	}
	msg := irq.Message{Address: binary.LittleEndian.Uint64(e.raw[0:]), Data: binary.LittleEndian.Uint32(e.raw[8:])}
	if !e.routed && v.Pending() {
		e.pending = true // taken before Route, as KVM delivers what an eventfd holds when it is attached
	}
	if err := v.Route(msg); err != nil {
		m.note(silentVector("MSI-X", i, fmt.Errorf("route it to %#x: %w", msg.Address, err)))
		return
	}
	if e.routed {
		return // the message changed under way; nothing can be pending
	}
	e.routed = true
	if v.Pending() || e.pending { // triggered just before Route, or earlier
		e.pending = false
		m.note(v.Trigger())
	}
}

func (m *MSIX) vector(i int) (irq.Vector, error) {
	e := &m.entries[i]
	if v := e.vector.Load(); v != nil {
		return *v, nil
	}
	v, err := m.alloc.NewVector()
	if err != nil {
		return nil, err
	}
	if m.OnVector != nil {
		if err := m.OnVector(i, v); err != nil {
			_ = v.Close() // the first error tells more
			return nil, err
		}
	}
	e.vector.Store(&v)
	return v, nil
}

// msixTable and msixPBA are MSIX as bus handlers.
type (
	msixTable MSIX
	msixPBA   MSIX
)

func (t *msixTable) Read(off uint64, p []byte) {
	m := (*MSIX)(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range p {
		p[i] = 0
		if at := off + uint64(i); at < MSIXTableSize(len(m.entries)) {
			p[i] = m.entries[at/msixEntrySize].raw[at%msixEntrySize]
		}
	}
}

func (t *msixTable) Write(off uint64, p []byte) {
	m := (*MSIX)(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(p) > 0 && off < MSIXTableSize(len(m.entries)) {
		i := int(off / msixEntrySize)
		e := &m.entries[i]
		n := copy(e.raw[off%msixEntrySize:], p)
		e.raw[0] &^= 3 // the address is a multiple of 4
		e.raw[12] &= msixEntryMask
		e.raw[13], e.raw[14], e.raw[15] = 0, 0, 0
		m.update(i)
		p, off = p[n:], off+uint64(n)
	}
}

func (b *msixPBA) Read(off uint64, p []byte) {
	m := (*MSIX)(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range p {
		p[i] = 0
		for bit := range 8 {
			n := int(off+uint64(i))*8 + bit
			if n < len(m.entries) && m.isPending(n) {
				p[i] |= 1 << bit
			}
		}
	}
}

// isPending tells whether a masked vector was triggered. Taking the vector's count moves
// it to the entry, where update finds it.
func (m *MSIX) isPending(i int) bool {
	e := &m.entries[i]
	if e.routed {
		return false
	}
	if v := e.vector.Load(); v != nil && (*v).Pending() {
		e.pending = true
	}
	return e.pending
}

// Write does nothing: software must not write the pending bits (PCI 3.0, 6.8.2.10).
func (*msixPBA) Write(uint64, []byte) {}
