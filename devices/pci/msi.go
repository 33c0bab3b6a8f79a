package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
)

const (
	// MaxMSI is the most vectors of an MSI capability.
	MaxMSI = 32

	msiEnable  = 1 << 0
	msi64      = 1 << 7
	msiMasks   = 1 << 8
	msiControl = 2 // offsets of registers; the others depend on the layout
	msiAddress = 4 // 4 or 8 bytes
	msiMaxSize = 24
)

// MSILayout says which of the four layouts an MSI capability has (PCI 3.0, 6.8.1).
type MSILayout struct {
	Wide  bool // addresses of 64 bits
	Masks bool // a mask bit and a pending bit for each vector
}

func (l MSILayout) control() uint16 {
	var c uint16
	if l.Wide {
		c |= msi64
	}
	if l.Masks {
		c |= msiMasks
	}
	return c
}

// data, mask and pending are the offsets of registers.
func (l MSILayout) data() int {
	if l.Wide {
		return msiAddress + 8
	}
	return msiAddress + 4
}
func (l MSILayout) mask() int    { return l.data() + 4 }
func (l MSILayout) pending() int { return l.data() + 8 }

// Size returns the bytes of a capability of this layout.
func (l MSILayout) Size() int {
	if l.Masks {
		return l.pending() + 4
	}
	return l.data() + 2
}

// MSI is a function's MSI capability. Vectors are allocated when the guest enables them. All methods may be called
// concurrently.
type MSI struct {
	alloc irq.Allocator

	// OnVector and OnEnable are as those of MSIX, but every vector that the guest asks for is there before OnEnable is called, masked
	// or not: what triggers a masked one makes it pending. n is how many the guest asks for. OnEnable is called again when that
	// changes while MSI is on.
	OnVector func(i int, v irq.Vector) error
	OnEnable func(on bool, n int) error

	layout MSILayout

	mu      sync.Mutex
	on      bool
	count   int // vectors the guest asked for
	mask    uint32
	vectors []irq.Vector
	routed  uint32
	pending uint32
	failed  error
	warn    func(error) // of the function that has the capability
}

// NewMSI makes a capability of n vectors, a power of two up to MaxMSI.
func NewMSI(alloc irq.Allocator, n int) (*MSI, error) {
	if n < 1 || n > MaxMSI || n&(n-1) != 0 {
		return nil, fmt.Errorf("pci: MSI with %d vectors, not a power of two up to %d", n, MaxMSI)
	}
	return &MSI{alloc: alloc, layout: MSILayout{Wide: true, Masks: true}, vectors: make([]irq.Vector, n)}, nil
}

// AddMSI gives f the capability, with 64-bit addresses and masks.
func (f *Function) AddMSI(m *MSI) error { return f.AddMSIAt(f.nextCap, m, m.layout) }

// AddMSIAt is AddMSI with another layout and at an offset in config space of the caller's
// choice.
func (f *Function) AddMSIAt(at int, m *MSI, l MSILayout) error {
	m.layout = l
	size := l.Size()
	var bytes, masks [msiMaxSize]byte
	order := uint16(bits.Len(uint(len(m.vectors))) - 1)
	binary.LittleEndian.PutUint16(bytes[msiControl:], order<<1|l.control())
	masks[msiControl] = msiEnable | 7<<4
	binary.LittleEndian.PutUint32(masks[msiAddress:], ^uint32(3))
	if l.Wide {
		binary.LittleEndian.PutUint32(masks[msiAddress+4:], ^uint32(0))
	}
	binary.LittleEndian.PutUint16(masks[l.data():], 0xffff)
	if l.Masks {
		binary.LittleEndian.PutUint32(masks[l.mask():], uint32(1<<len(m.vectors)-1))
	}
	body := bytes[2:size]
	if err := f.AddCapabilityAt(at, CapMSI, body, masks[2:size]); err != nil {
		return err
	}
	m.warn = f.warnings.add
	f.AddHook(Hook{
		Off: at, Size: size,
		Read:  m.readPending,
		Write: func(int, []byte) { m.apply(f.cfg.data[at : at+size]) },
	})
	f.OnReset(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		copy(f.cfg.data[at+2:], body)
		m.apply(f.cfg.data[at : at+size])
	})
	return nil
}

// readPending puts the pending bits into what the guest reads at off of the capability.
func (m *MSI) readPending(off int, p []byte) {
	if !m.layout.Masks {
		return
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], m.pendingBits())
	for i := range p {
		if n := off + i - m.layout.pending(); n >= 0 && n < len(b) {
			p[i] = b[n]
		}
	}
}

// Enabled reports whether the guest switched MSI on.
func (m *MSI) Enabled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// Trigger raises vector i; a device with fewer vectors enabled than it wants uses what
// is there, so i is taken modulo their number.
func (m *MSI) Trigger(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on || i < 0 {
		return nil
	}
	i %= m.count
	if v := m.vectors[i]; v != nil {
		return v.Trigger()
	}
	m.pending |= 1 << i
	return m.failed
}

// Err returns the last error of an allocation or routing that the guest asked for.
func (m *MSI) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Close frees all vectors.
func (m *MSI) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on, m.routed = false, 0
	var first error
	for i, v := range m.vectors {
		if v == nil {
			continue
		}
		if err := v.Close(); err != nil && first == nil {
			first = fmt.Errorf("pci: close MSI vector %d: %w", i, err)
		}
		m.vectors[i] = nil
	}
	return first
}

// apply takes over the capability's registers.
func (m *MSI) apply(c []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	control := binary.LittleEndian.Uint16(c[msiControl:])
	was, before := m.on, m.count
	m.on = control&msiEnable != 0
	m.count = min(1<<(control>>4&7), len(m.vectors))
	if m.layout.Masks {
		m.mask = binary.LittleEndian.Uint32(c[m.layout.mask():])
	}
	if was && !m.on && m.OnEnable != nil {
		m.note(m.OnEnable(false, 0))
	}
	data := uint32(binary.LittleEndian.Uint16(c[m.layout.data():]))
	msg := irq.Message{Address: uint64(binary.LittleEndian.Uint32(c[msiAddress:]))}
	if m.layout.Wide {
		msg.Address = binary.LittleEndian.Uint64(c[msiAddress:])
	}
	for i := range m.vectors {
		msg.Data = data&^uint32(m.count-1) | uint32(i&(m.count-1))
		m.note(m.update(i, msg))
	}
	if m.on && (!was || m.count != before) && m.OnEnable != nil {
		m.note(m.OnEnable(true, m.count))
	}
}

func (m *MSI) note(err error) {
	if err == nil {
		return
	}
	m.failed = err
	if m.warn != nil {
		m.warn(err)
	}
}

func (m *MSI) update(i int, msg irq.Message) error {
	bit := uint32(1) << i
	if m.on && i < m.count {
		if err := m.allocate(i); err != nil {
			return err
		}
	}
	v := m.vectors[i]
	if !m.on || i >= m.count || m.mask&bit != 0 {
		var err error
		if m.routed&bit != 0 {
			m.routed &^= bit
			err = v.Unroute()
		}
		if !m.on {
			m.pending &^= bit
			if v != nil {
				v.Pending()
			}
		}
		return err
	}
	if m.routed&bit == 0 && v.Pending() {
		m.pending |= bit // taken before Route, as in MSIX
	}
	if err := v.Route(msg); err != nil {
		return silentVector("MSI", i, fmt.Errorf("route it to %#x: %w", msg.Address, err))
	}
	if m.routed&bit != 0 {
		return nil
	}
	m.routed |= bit
	if v.Pending() || m.pending&bit != 0 {
		m.pending &^= bit
		return v.Trigger()
	}
	return nil
}

// allocate makes sure that there is a vector i.
func (m *MSI) allocate(i int) error {
	if m.vectors[i] != nil {
		return nil
	}
	v, err := m.alloc.NewVector()
	if err != nil {
		return silentVector("MSI", i, err)
	}
	if m.OnVector != nil {
		if err := m.OnVector(i, v); err != nil {
			_ = v.Close() // the first error tells more
			return silentVector("MSI", i, err)
		}
	}
	m.vectors[i] = v
	return nil
}

func (m *MSI) pendingBits() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range m.vectors {
		if v != nil && m.routed&(1<<i) == 0 && v.Pending() {
			m.pending |= 1 << i
		}
	}
	return m.pending
}
