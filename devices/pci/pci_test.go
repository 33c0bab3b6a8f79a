package pci_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
	"github.com/stile-vmm/stile/internal/layout"
)

var mmio64 = layout.Range{Start: 8 * layout.GiB, Size: layout.GiB}

// machine is a root bus with fakes around it.
type machine struct {
	memory, ports bus.Bus
	mapper        *pcitest.Mapper
	irq           *pcitest.IRQ
	root          *pci.Root
	t             testing.TB
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{mapper: pcitest.NewMapper(), irq: pcitest.NewIRQ(0), t: t}
	var err error
	m.root, err = pci.NewRoot(pci.Options{Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irq, MMIO64: mmio64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.root.Close)
	return m
}

func (m *machine) add(f *pci.Function) int {
	m.t.Helper()
	slot, err := m.root.Add(-1, 0, f)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.root.Assign(); err != nil {
		m.t.Fatal(err)
	}
	return slot
}

func (m *machine) read(slot, reg, n int) uint64 {
	var b [8]byte
	m.memory.Read(layout.ECAM+uint64(slot)<<15+uint64(reg), b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

func (m *machine) write(slot, reg, n int, v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	m.memory.Write(layout.ECAM+uint64(slot)<<15+uint64(reg), b[:n])
}

// reg is a handler of one value.
type reg byte

func (r reg) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = byte(r)
	}
}
func (reg) Write(uint64, []byte) {}

func newFunction(t testing.TB, bars map[int]pci.BAR) *pci.Function {
	t.Helper()
	f := pci.NewFunction(pci.Header{Name: "test", Vendor: 0x1234, Device: 0x11e8, Class: 0x020000, Pin: 1})
	for i, b := range bars {
		if err := f.SetBAR(i, b); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func trapBAR(size uint64, v byte) pci.BAR {
	return pci.BAR{Size: size, Is64: true, Traps: []pci.Trap{{Size: size, Handler: reg(v)}}}
}

func (m *machine) answers(addr uint64, want bool) {
	m.t.Helper()
	var b [1]byte
	if got := m.memory.Read(addr, b[:]); got != want {
		m.t.Errorf("answer at %#x: %v, want %v", addr, got, want)
	}
}

func TestIdentity(t *testing.T) {
	m := newMachine(t)
	slot := m.add(newFunction(t, nil))
	if got := m.read(0, pci.RegClass, 4) >> 8 & 0xffff; got != 0x0600 {
		t.Errorf("slot 0 has class %#x, not a host bridge", got)
	}
	if got := m.read(slot, 0, 4); got != 0x11e81234 {
		t.Errorf("ID %#x", got)
	}
	if got := m.read(slot+1, 0, 4); got != 0xffffffff {
		t.Errorf("an empty slot reads %#x", got)
	}
	m.write(slot, 0, 4, 0)
	m.write(slot, pci.RegClass, 4, 0)
	if got := m.read(slot, 0, 8); got&0xffffffff != 0x11e81234 {
		t.Errorf("ID after a write %#x", got)
	}
	gsi := pci.GSI(slot, 1)
	if got := m.read(slot, pci.RegInterruptLine, 2); got != 1<<8|uint64(gsi) {
		t.Errorf("interrupt line and pin %#x, want GSI %d, pin 1", got, gsi)
	}
}

func TestNoPorts(t *testing.T) {
	m := &machine{mapper: pcitest.NewMapper(), irq: pcitest.NewIRQ(0), t: t}
	var err error
	m.root, err = pci.NewRoot(pci.Options{Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irq, NoPorts: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.root.Close)
	if m.ports.Read(layout.PortPCIAddress, make([]byte, 4)) || m.read(0, 0, 4) != 0xffffffff {
		t.Error("there are config ports or a host bridge")
	}
	if slot := m.add(newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})); slot != 1 {
		t.Errorf("the first function is in slot %d", slot)
	}
	if got := m.read(1, pci.RegBAR0, 8) &^ 15; got != layout.MMIO32 {
		t.Errorf("without a 64-bit window the BAR is at %#x", got)
	}
}

func TestExtendedConfigSpace(t *testing.T) {
	m := newMachine(t)
	plain, express, edited := newFunction(t, nil), newFunction(t, nil), newFunction(t, nil)
	if _, err := express.AddCapability(pci.CapExpress, make([]byte, 58), nil); err != nil {
		t.Fatal(err)
	}
	edited.Edit(func(data, writable []byte) { data[0x104], writable[0x104] = 0x12, 0xff })
	for f, want := range map[*pci.Function]uint64{plain: ^uint64(0), express: 0, edited: 0x12 << 32} {
		slot := m.add(f)
		if got := m.read(slot, 0x100, 8); got != want {
			t.Errorf("%#x at 0x100, want %#x", got, want)
		}
		if got, want := m.read(slot, 0xfc, 8), want<<32; got != want {
			t.Errorf("%#x at 0xfc, want %#x", got, want)
		}
	}
}

func TestConfigPorts(t *testing.T) {
	m := newMachine(t)
	slot := m.add(newFunction(t, nil))
	out := func(port uint64, n int, v uint32) {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], v)
		m.ports.Write(port, b[:n])
	}
	in := func(port uint64, n int) uint32 {
		var b [4]byte
		m.ports.Read(port, b[:n])
		return binary.LittleEndian.Uint32(b[:])
	}
	at := uint32(0x80000000) | uint32(slot)<<11
	out(layout.PortPCIAddress, 4, at)
	if got := in(layout.PortPCIAddress, 4); got != at {
		t.Errorf("address register %#x, want %#x", got, at)
	}
	if got := in(layout.PortPCIData, 4); got != 0x11e81234 {
		t.Errorf("ID %#x", got)
	}
	if got := in(layout.PortPCIData+2, 2); got != 0x11e8 {
		t.Errorf("device ID %#x", got)
	}
	out(layout.PortPCIAddress, 1, 0) // only 32 bits reach the register
	out(layout.PortPCIAddress+3, 1, 0)
	if got := in(layout.PortPCIAddress, 4); got != at {
		t.Errorf("address register after byte writes %#x", got)
	}
	for _, a := range []uint32{at &^ 0x80000000, at | 1<<16, 0x80000000 | 31<<11} {
		out(layout.PortPCIAddress, 4, a)
		if got := in(layout.PortPCIData, 4); got != 0xffffffff {
			t.Errorf("address %#x reads %#x", a, got)
		}
	}
	out(layout.PortPCIAddress, 4, at|pci.RegInterruptLine)
	out(layout.PortPCIData, 1, 0x5a)
	if got := m.read(slot, pci.RegInterruptLine, 1); got != 0x5a {
		t.Errorf("interrupt line %#x", got)
	}
}

func TestAddRemove(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})
	if _, err := m.root.Add(3, 0, f); err != nil {
		t.Fatal(err)
	}
	if _, err := m.root.Add(3, 0, newFunction(t, nil)); err == nil {
		t.Error("two functions at one place")
	}
	if _, err := m.root.Add(32, 0, newFunction(t, nil)); err == nil {
		t.Error("slot 32 accepted")
	}
	second := newFunction(t, nil)
	if _, err := m.root.Add(3, 1, second); err != nil {
		t.Fatal(err)
	}
	if m.read(3, pci.RegHeaderType, 1) != 0x80 {
		t.Error("function 0 is not marked multi-function")
	}
	m.root.Remove(second)
	if m.read(3, pci.RegHeaderType, 1) != 0 {
		t.Error("function 0 is still marked multi-function")
	}
	if err := m.root.Assign(); err != nil {
		t.Fatal(err)
	}
	m.write(3, pci.RegCommand, 2, pci.CommandMemory)
	at := m.read(3, pci.RegBAR0, 8) &^ 15
	m.root.Remove(f)
	m.answers(at, false)
	if got := m.read(3, 0, 4); got != 0xffffffff {
		t.Errorf("removed function reads %#x", got)
	}
	if m.add(newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})) != 1 {
		t.Error("the first free slot was not taken")
	}
	if got := m.read(1, pci.RegBAR0, 8) &^ 15; got != at {
		t.Errorf("freed address %#x was not used again, %#x was", at, got)
	}
}

func TestCapabilities(t *testing.T) {
	f := newFunction(t, nil)
	a, err := f.AddCapability(pci.CapVendor, []byte{5, 1, 2}, []byte{0, 0xf0})
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.AddCapability(0x10, make([]byte, 10), nil)
	if err != nil {
		t.Fatal(err)
	}
	x, err := f.AddExtCapability(3, 1, []byte{1, 2, 3, 4, 5, 6, 7, 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	y, err := f.AddExtCapability(0xb, 2, []byte{0}, []byte{0xff})
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	slot := m.add(f)
	if m.read(slot, pci.RegStatus, 2)&0x10 == 0 || int(m.read(slot, pci.RegCapabilities, 1)) != a ||
		int(m.read(slot, a+1, 1)) != b || m.read(slot, b+1, 1) != 0 || b%4 != 0 {
		t.Error("capability list is broken")
	}
	if x != 0x100 || m.read(slot, x, 4) != uint64(3|1<<16|y<<20) || m.read(slot, y, 4) != 0xb|2<<16 {
		t.Error("extended capability list is broken")
	}
	m.write(slot, a+2, 4, 0xffffffff)
	if got := m.read(slot, a+2, 3); got != 0x02f105 {
		t.Errorf("capability after a write: %#x", got)
	}
	for range 20 {
		if _, err = f.AddCapability(pci.CapVendor, make([]byte, 30), nil); err != nil {
			return
		}
	}
	t.Error("capabilities beyond 256 bytes were accepted")
}

func TestINTxSharedLine(t *testing.T) {
	m := newMachine(t)
	a, b := newFunction(t, nil), newFunction(t, nil)
	for slot, f := range map[int]*pci.Function{4: a, 8: b} { // one line: slots differ by 4
		if _, err := m.root.Add(slot, 0, f); err != nil {
			t.Fatal(err)
		}
	}
	gsi := pci.GSI(4, 1)
	step := func(want bool, what string, fn func()) {
		t.Helper()
		fn()
		if m.irq.Level(gsi) != want {
			t.Errorf("%s: line %v, want %v", what, !want, want)
		}
	}
	set := func(f *pci.Function, level bool) func() {
		return func() {
			if err := f.INTx().Set(level); err != nil {
				t.Error(err)
			}
		}
	}
	step(true, "a asserts", set(a, true))
	step(true, "a asserts again", set(a, true))
	step(true, "b asserts", set(b, true))
	step(true, "a deasserts", set(a, false))
	step(false, "b deasserts", set(b, false))
	step(true, "b asserts again", set(b, true))
	if m.read(8, pci.RegStatus, 2)&8 == 0 {
		t.Error("status does not show the interrupt")
	}
	step(false, "b is disabled", func() { m.write(8, pci.RegCommand, 2, pci.CommandINTxDisable) })
	if m.read(8, pci.RegStatus, 2)&8 == 0 {
		t.Error("status does not show the disabled interrupt")
	}
	step(true, "b is enabled", func() { m.write(8, pci.RegCommand, 2, 0) })
	step(false, "b is removed", func() { m.root.Remove(b) })
}

func TestHooks(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})
	at, err := f.AddCapability(1, make([]byte, 6), []byte{0, 0, 3}) // power management
	if err != nil {
		t.Fatal(err)
	}
	var home uint64
	powered := true
	var log []string
	answersNow := func() bool { var b [1]byte; return m.memory.Read(home, b[:]) }
	f.AddHook(pci.Hook{
		Off: at + 4, Size: 1,
		Read:       func(_ int, p []byte) { p[0] |= 0x80 },
		EndsDecode: func(_ int, p []byte) bool { return p[0]&3 == 3 },
		Write: func(_ int, p []byte) {
			if p[0]&3 == 3 && answersNow() {
				log = append(log, "D3 reached a mapped device")
			}
			if p[0]&3 == 0 && answersNow() {
				log = append(log, "mapped before D0")
			}
			powered = p[0]&3 == 0
		},
		Powered: func() bool { return powered },
	})
	slot := m.add(f)
	home = m.read(slot, pci.RegBAR0, 8) &^ 15
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	m.answers(home, true)
	m.write(slot, at+3, 4, 3<<8) // clipped to the hook's byte
	m.answers(home, false)
	if got := m.read(slot, at+4, 1); got != 0x83 {
		t.Errorf("power state %#x", got)
	}
	m.write(slot, at+4, 1, 0)
	m.answers(home, true)
	if len(log) > 0 {
		t.Error(log)
	}
}

func TestConcurrentConfig(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})
	slot := m.add(f)
	home := m.read(slot, pci.RegBAR0, 8) &^ 15
	var wg sync.WaitGroup
	for i := range uint64(3) {
		wg.Go(func() {
			var b [4]byte
			for n := range uint64(300) {
				m.write(slot, pci.RegCommand, 2, n&pci.CommandMemory)
				m.write(slot, pci.RegBAR0, 4, (home+(n+i)%4*0x1000)&0xffffffff)
				m.memory.Read(home+n%4*0x1000, b[:])
			}
		})
	}
	wg.Wait()
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	m.write(slot, pci.RegBAR0, 8, home)
	m.answers(home, true)
}

// FuzzConfig writes anything anywhere, by ECAM and by ports.
func FuzzConfig(f *testing.F) {
	f.Add([]byte{4, 0, 2, 0xff, 0x10, 0, 4, 0xff, 0x10, 0, 8, 0, 0x42, 0, 2, 0x80})
	f.Add([]byte{0xff, 0xf, 8, 0xff, 4, 0, 1, 2, 0x14, 0, 4, 2, 0x52, 0, 2, 0xff})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := newMachine(t)
		x, err := pci.NewMSIX(m.irq, 4)
		if err != nil {
			t.Fatal(err)
		}
		msi, err := pci.NewMSI(m.irq, 4)
		if err != nil {
			t.Fatal(err)
		}
		fn := newFunction(t, map[int]pci.BAR{
			0: {Size: 0x4000, Is64: true, Traps: []pci.Trap{{Size: 0x40, Handler: x.Table()}, {Off: 0x800, Size: 8, Handler: x.PBA()}},
				Hosts: []pci.Host{{Off: 0x1000, Size: 0x1000, Addr: 0x1000}}},
			2: trapBAR(0x1000, 1), 4: {Size: 0x20, Space: pci.IO, Traps: []pci.Trap{{Size: 4, Handler: reg(1)}}},
		})
		if err := errors.Join(fn.AddMSIX(x, 0, 0, 0, 0x800), fn.AddMSI(msi)); err != nil {
			t.Fatal(err)
		}
		slot := m.add(fn)
		id := m.read(slot, 0, 4)
		for ; len(script) >= 4; script = script[4:] {
			at, n := int(binary.LittleEndian.Uint16(script))%0x1008, 1+int(script[2]%8)
			v := uint64(script[3]) * 0x0101010101010101
			if script[2]&0x80 != 0 {
				v = rand.New(rand.NewPCG(uint64(script[3]), 1)).Uint64()
			}
			switch script[2] >> 4 & 3 {
			case 0, 1:
				m.write(slot, at, n, v)
			case 2:
				m.ports.Write(layout.PortPCIAddress+uint64(at%8), []byte{script[3]})
			case 3:
				fn.AccessBAR(at%8, uint64(at), make([]byte, n), true)
				_ = x.Trigger(at % 5)
				_ = msi.Trigger(at % 5)
			}
			m.read(slot, at, n)
		}
		if got := m.read(slot, 0, 4); got != id {
			t.Fatalf("ID became %#x", got)
		}
		fn.Reset()
		m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
		m.answers(m.read(slot, pci.RegBAR0, 8)&^15, true)
		if n, _ := m.mapper.Hosts(0); n != 1 {
			t.Fatalf("%d host parts mapped, want 1", n)
		}
		m.root.Remove(fn)
		if n, _ := m.mapper.Hosts(0); n != 0 {
			t.Fatalf("%d host parts mapped after removal", n)
		}
		if err := errors.Join(x.Close(), msi.Close()); err != nil || m.irq.Open() != 0 {
			t.Fatalf("%d vectors left, %v", m.irq.Open(), err)
		}
	})
}

func BenchmarkConfigRead(b *testing.B) {
	m := newMachine(b)
	slot := m.add(newFunction(b, nil))
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		m.memory.Read(layout.ECAM+uint64(slot)<<15, p)
	}
}

func BenchmarkConfigWrite(b *testing.B) {
	m := newMachine(b)
	slot := m.add(newFunction(b, nil))
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		m.memory.Write(layout.ECAM+uint64(slot)<<15+pci.RegInterruptLine, p)
	}
}
