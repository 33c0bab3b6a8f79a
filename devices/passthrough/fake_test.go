package passthrough

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
	vmlayout "github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/vfio"
)

// fakeHardware is a device whose registers are memory, and which notes what is done to it.
type fakeHardware struct {
	config *fakeRegion
	bars   [6]*fakeRegion
	rom    *fakeRegion
	irqs   [5]vfio.IRQInfo

	mu    sync.Mutex
	trace []string
	fail  map[string]error // by call
	fds   []int            // of the active MSI or MSI-X
	mode  vfio.IRQ

	resample *sys.EventFD // of the wire that was made last
}

func newFake() *fakeHardware {
	h := &fakeHardware{fail: make(map[string]error), mode: off}
	h.config = &fakeRegion{h: h, name: "config", data: make([]byte, pci.ConfigSize)}
	h.rom = &fakeRegion{h: h, name: "ROM"}
	for i := range h.bars {
		h.bars[i] = &fakeRegion{h: h, name: fmt.Sprintf("BAR%d", i)}
	}
	h.put16(pci.RegVendor, 0x1234)
	h.put16(pci.RegDevice, 0x5678)
	h.put32(pci.RegRevision, 0x01080207)
	h.put16(pci.RegSubVendor, 0x1af4)
	h.put16(pci.RegSubDevice, 0x1100)
	h.irqs[vfio.INTx] = vfio.IRQInfo{Count: 1, EventFD: true, Maskable: true, AutoMasked: true}
	h.config.data[regPin] = 1
	return h
}

func (h *fakeHardware) put16(off int, v uint16) {
	binary.LittleEndian.PutUint16(h.config.data[off:], v)
}
func (h *fakeHardware) put32(off int, v uint32) {
	binary.LittleEndian.PutUint32(h.config.data[off:], v)
}

// bar gives the device a BAR with flags in its register.
func (h *fakeHardware) bar(i int, flags uint32, size uint64, areas ...vfio.Area) *fakeRegion {
	h.put32(pci.RegBAR0+4*i, flags)
	h.bars[i].data, h.bars[i].areas = make([]byte, size), areas
	return h.bars[i]
}

// cap puts a capability at off, with the offset of the next one.
func (h *fakeHardware) cap(off int, id, next byte, body ...byte) {
	h.config.data[pci.RegStatus] |= statusCapabilities
	if h.config.data[capPointer] == 0 {
		h.config.data[capPointer] = byte(off)
	}
	copy(h.config.data[off:], append([]byte{id, next}, body...))
}

// ext puts an extended capability at off.
func (h *fakeHardware) ext(off int, id uint16, next int, body ...byte) {
	h.put32(off, uint32(id)|1<<16|uint32(next)<<20)
	copy(h.config.data[off+4:], body)
}

func (h *fakeHardware) note(format string, args ...any) {
	if len(h.trace) > 1<<12 {
		return
	}
	h.trace = append(h.trace, fmt.Sprintf(format, args...))
}

// do notes a call and returns its error.
func (h *fakeHardware) do(call, format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(call+" "+format, args...)
	return h.fail[call]
}

// since returns what was noted since the last call of it.
func (h *fakeHardware) since() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.trace
	h.trace = nil
	return t
}

func (h *fakeHardware) Name() string     { return "0000:01:00.0" }
func (h *fakeHardware) Config() Region   { return h.config }
func (h *fakeHardware) BAR(i int) Region { return h.bars[i] }
func (h *fakeHardware) ROM() Region      { return h.rom }

func (h *fakeHardware) IRQInfo(k vfio.IRQ) vfio.IRQInfo { return h.irqs[k] }

func (h *fakeHardware) EnableMSI(kind vfio.IRQ, fds []int) error {
	err := h.do("EnableMSI", "%v %v", kind, fds)
	var few *vfio.VectorsError
	if errors.As(err, &few) && len(fds) <= few.Available {
		err = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.mode, h.fds = kind, fds
	}
	return err
}

func (h *fakeHardware) SetVector(vector, fd int) error {
	return h.do("SetVector", "%d %d", vector, fd)
}
func (h *fakeHardware) EnableINTx(trigger int) error { return h.do("EnableINTx", "%d", trigger) }
func (h *fakeHardware) SetUnmask(fd int) error       { return h.do("SetUnmask", "%d", fd) }
func (h *fakeHardware) UnmaskINTx() error            { return h.do("UnmaskINTx", "") }
func (h *fakeHardware) DisableIRQs() error           { return h.do("DisableIRQs", "") }
func (h *fakeHardware) Notify(k vfio.IRQ, fd int) error {
	return h.do("Notify", "%v %v", k, fd >= 0)
}

// fakeRegion is a region in memory.
type fakeRegion struct {
	h       *fakeHardware
	name    string
	data    []byte
	areas   []vfio.Area
	onWrite func(off int64, p []byte) // before the write, which it may veto by changing p
	err     error
}

func (r *fakeRegion) Size() uint64       { return uint64(len(r.data)) }
func (r *fakeRegion) Areas() []vfio.Area { return r.areas }

func (r *fakeRegion) transfer(p []byte, off int64) error {
	if off < 0 || int(off)+len(p) > len(r.data) {
		return fmt.Errorf("%s: %d bytes at %#x are outside", r.name, len(p), off)
	}
	return r.err
}

func (r *fakeRegion) ReadAt(p []byte, off int64) (int, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if err := r.transfer(p, off); err != nil {
		return 0, err
	}
	r.h.note("read %s %#x %d", r.name, off, len(p))
	return copy(p, r.data[off:]), nil
}

func (r *fakeRegion) WriteAt(p []byte, off int64) (int, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if err := r.transfer(p, off); err != nil {
		return 0, err
	}
	r.h.note("write %s %#x %x", r.name, off, p)
	if r.onWrite != nil {
		r.onWrite(off, p)
	}
	return copy(r.data[off:], p), nil
}

func (r *fakeRegion) Mmap(a vfio.Area) (*sys.Mapping, error) {
	if err := r.h.do("Mmap", "%s %#x %#x", r.name, a.Offset, a.Size); err != nil {
		return nil, err
	}
	return sys.MapAnonymous(int(a.Size))
}

// machine is what is around a function.
type machine struct {
	t      testing.TB
	hw     *fakeHardware
	memory bus.Bus
	ports  bus.Bus
	mapper *pcitest.Mapper
	irqs   *numbered
	root   *pci.Root
	f      *Function
	warned []error
	events chan Event
}

// numbered gives vectors numbers in place of eventfds, from 100 on.
type numbered struct {
	*pcitest.IRQ
	mu   sync.Mutex
	next int
}

type numberedVector struct {
	irq.Vector
	fd int
}

func (v numberedVector) EventFD() (int, error) { return v.fd, nil }

func (n *numbered) NewVector() (irq.Vector, error) {
	v, err := n.IRQ.NewVector()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	return numberedVector{v, 99 + n.next}, nil
}

// fakeWire is a Wire that notes into the device's trace.
type fakeWire struct {
	h        *fakeHardware
	resample *sys.EventFD
}

func newFakeWire(h *fakeHardware) (Wire, error) {
	e, err := sys.NewEventFD()
	h.resample = e
	return fakeWire{h, e}, err
}

func (w fakeWire) AwaitResample() error {
	_, err := w.resample.Wait()
	return err
}

func (w fakeWire) Trigger() int  { return 7 }
func (w fakeWire) Resample() int { return 8 }
func (w fakeWire) Attach() error { return w.h.do("Attach", "") }
func (w fakeWire) Detach() error { return w.h.do("Detach", "") }
func (w fakeWire) Close() error  { return errors.Join(w.h.do("CloseWire", ""), w.resample.Close()) }

// build puts hw onto a bus, without starting it.
func build(t testing.TB, hw *fakeHardware) *machine {
	t.Helper()
	m := &machine{t: t, hw: hw, mapper: pcitest.NewMapper(), irqs: &numbered{IRQ: pcitest.NewIRQ(0)}, events: make(chan Event, 4)}
	var err error
	m.root, err = pci.NewRoot(pci.Options{Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irqs, NoPorts: true,
		MMIO64: vmlayout.Range{Start: 4 * vmlayout.GiB, Size: 4 * vmlayout.GiB}})
	check(t, err)
	m.f, err = New(hw, Options{
		IRQ: m.irqs, NewWire: func(uint32) (Wire, error) { return newFakeWire(hw) },
		Notify: func(e Event) { m.events <- e },
		Warn:   func(err error) { m.warned = append(m.warned, err) },
	})
	check(t, err)
	_, err = m.root.Add(1, 0, m.f.PCI())
	check(t, err)
	check(t, m.root.Assign())
	return m
}

// plug builds and starts hw, and forgets what was noted meanwhile.
func plug(t testing.TB, hw *fakeHardware) *machine {
	t.Helper()
	m := build(t, hw)
	check(t, m.f.Start(1))
	hw.since()
	return m
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const ecam = vmlayout.ECAM + 1<<15 // slot 1

func (m *machine) read(off, n int) uint32 {
	var b [4]byte
	m.memory.Read(ecam+uint64(off), b[:n])
	return binary.LittleEndian.Uint32(b[:])
}

func (m *machine) write(off, n int, v uint32) {
	b := binary.LittleEndian.AppendUint32(nil, v)
	m.memory.Write(ecam+uint64(off), b[:n])
}

// address returns where a BAR is.
func (m *machine) address(i int) uint64 {
	v := uint64(m.read(pci.RegBAR0+4*i, 4))
	if v&(barIO|bar64) == bar64 {
		return v&^15 | uint64(m.read(pci.RegBAR0+4*i+4, 4))<<32
	}
	if v&barIO != 0 {
		return v &^ 3
	}
	return v &^ 15
}

// mapped returns how many parts of BARs are memory of the guest.
func (m *machine) mapped() int {
	n, _ := m.mapper.Hosts(0)
	return n
}
