package pci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
)

const (
	msixEnable  = 1 << 15
	msixMaskAll = 1 << 14
)

// msixMachine is a function with MSI-X of n vectors, decoded.
type msixMachine struct {
	*machine
	x         *pci.MSIX
	slot, cap int
	bar       uint64
}

func newMSIX(t testing.TB, n, limit int) *msixMachine {
	t.Helper()
	m := newMachine(t)
	m.irq = pcitest.NewIRQ(limit)
	x, err := pci.NewMSIX(m.irq, n)
	if err != nil {
		t.Fatal(err)
	}
	f := newFunction(t, map[int]pci.BAR{0: {Size: 0x2000, Is64: true, Traps: []pci.Trap{
		{Size: pci.MSIXTableSize(n), Handler: x.Table()}, {Off: 0x1000, Size: pci.MSIXPBASize(n), Handler: x.PBA()}}}})
	if err := f.AddMSIX(x, 0, 0, 0, 0x1000); err != nil {
		t.Fatal(err)
	}
	mm := &msixMachine{machine: m, x: x}
	mm.slot = m.add(f)
	mm.cap = int(m.read(mm.slot, pci.RegCapabilities, 1))
	m.write(mm.slot, pci.RegCommand, 2, pci.CommandMemory)
	mm.bar = m.read(mm.slot, pci.RegBAR0, 8) &^ 15
	return mm
}

func (m *msixMachine) control(v uint64) { m.write(m.slot, m.cap+2, 2, v) }

func (m *msixMachine) put(off, n int, v uint64) {
	b := []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24), byte(v >> 32), byte(v >> 40), byte(v >> 48), byte(v >> 56)}
	m.memory.Write(m.bar+uint64(off), b[:n])
}

func (m *msixMachine) get(off int) byte {
	var b [1]byte
	m.memory.Read(m.bar+uint64(off), b[:])
	return b[0]
}

func (m *msixMachine) program(i int, msg irq.Message) {
	m.put(16*i, 8, msg.Address)
	m.put(16*i+8, 4, uint64(msg.Data))
}

func (m *msixMachine) trigger(i int) {
	m.t.Helper()
	if err := m.x.Trigger(i); err != nil {
		m.t.Error(err)
	}
}

func (m *msixMachine) delivered(msg irq.Message, want int, when string) {
	m.t.Helper()
	if got := m.irq.Count(msg); got != want {
		m.t.Errorf("%s: %d interrupts delivered, want %d", when, got, want)
	}
}

func TestMSIX(t *testing.T) {
	m := newMSIX(t, 3, 0)
	msg := irq.Message{Address: 0xfee01000, Data: 0x41}
	if got := m.read(m.slot, m.cap+2, 2); got != 2 {
		t.Errorf("message control %#x, want a table of 3", got)
	}
	m.program(1, msg)
	if m.irq.Open() != 0 {
		t.Error("vectors allocated before they were unmasked")
	}
	m.trigger(1)
	m.control(msixEnable | msixMaskAll)
	m.trigger(1)
	m.delivered(msg, 0, "function masked")
	m.put(16+12, 4, 0)
	if m.irq.Open() != 0 {
		t.Error("a vector was allocated while the function is masked")
	}
	if m.get(0x1000) != 2 {
		t.Errorf("pending bits %#x, want vector 1", m.get(0x1000))
	}
	m.control(msixEnable)
	m.delivered(msg, 1, "unmasked with one pending")
	if m.irq.Open() != 1 || m.get(0x1000) != 0 {
		t.Errorf("%d vectors allocated, pending %#x", m.irq.Open(), m.get(0x1000))
	}
	m.trigger(1)
	m.delivered(msg, 2, "live")
	m.put(16+12, 4, 1)
	m.trigger(1)
	m.trigger(1)
	m.delivered(msg, 2, "vector masked")
	for range 2 { // looking does not clear it
		if got := m.get(0x1000); got != 2 {
			t.Errorf("pending bits %#x, want vector 1", got)
		}
	}
	other := irq.Message{Address: 0xfee02000, Data: 0x55}
	m.program(1, other)
	m.put(16+12, 4, 0)
	m.delivered(other, 1, "moved and unmasked")
	m.put(16+8, 4, 0x56) // without masking
	m.trigger(1)
	m.delivered(irq.Message{Address: 0xfee02000, Data: 0x56}, 1, "changed while live")
	m.put(16+12, 4, 1)
	m.trigger(1)
	m.control(0) // disabling forgets
	m.put(16+12, 4, 0)
	m.control(msixEnable)
	m.delivered(irq.Message{Address: 0xfee02000, Data: 0x56}, 1, "enabled again")
	m.trigger(-1)
	m.trigger(3)
	if err := m.x.Err(); err != nil {
		t.Error(err)
	}
	m.root.Reset()
	if m.x.Enabled() || m.read(m.slot, m.cap+2, 2) != 2 {
		t.Error("MSI-X is enabled after a reset")
	}
	if err := m.x.Close(); err != nil || m.irq.Open() != 0 {
		t.Errorf("%d vectors left after Close, %v", m.irq.Open(), err)
	}
}

func TestMSIXOddAccess(t *testing.T) {
	m := newMSIX(t, 2, 0)
	for i, b := range []byte{0x11, 0x22, 0x33, 0x44} {
		m.put(i, 1, uint64(b))
	}
	m.put(14, 4, 0xffffffff) // crosses from one entry to the next
	m.put(29, 8, ^uint64(0)) // crosses the end of the table
	for off, want := range map[int]byte{0: 0x10, 1: 0x22, 3: 0x44, 12: 1, 14: 0, 16: 0xfc, 17: 0xff, 18: 0, 29: 0, 31: 0} {
		if got := m.get(off); got != want {
			t.Errorf("table byte %d is %#x, want %#x", off, got, want)
		}
	}
	m.put(0x1000, 8, ^uint64(0))
	if m.get(0x1000) != 0 {
		t.Error("pending bits can be written")
	}
}

func TestMSIXVectorsRunOut(t *testing.T) {
	m := newMSIX(t, 2, 1)
	m.control(msixEnable)
	m.put(12, 4, 0)
	m.put(16+12, 4, 0)
	if err := m.x.Err(); !errors.Is(err, pcitest.ErrNoVectors) {
		t.Errorf("error %v", err)
	}
	if err := m.x.Trigger(1); err == nil {
		t.Error("a vector without backing triggers without an error")
	}
}

func TestMSIXHooks(t *testing.T) {
	m := newMSIX(t, 2, 0)
	var log []string
	m.x.OnVector = func(i int, v irq.Vector) error {
		log = append(log, "vector")
		return nil
	}
	m.x.OnEnable = func(on bool) error {
		if on {
			log = append(log, "on")
		} else {
			log = append(log, "off")
		}
		return nil
	}
	m.put(12, 4, 0)
	m.control(msixEnable)
	m.control(msixEnable | msixMaskAll)
	m.control(0)
	if got := len(log); got != 3 || log[0] != "vector" || log[1] != "on" || log[2] != "off" {
		t.Errorf("hooks ran as %v", log)
	}
	if m.x.Vector(0) == nil || m.x.Vector(1) != nil || m.x.Vector(2) != nil {
		t.Error("Vector does not tell what is allocated")
	}
}

func TestMSI(t *testing.T) {
	m := newMachine(t)
	msi, err := pci.NewMSI(m.irq, 4)
	if err != nil {
		t.Fatal(err)
	}
	f := newFunction(t, nil)
	if err := f.AddMSI(msi); err != nil {
		t.Fatal(err)
	}
	slot := m.add(f)
	at := int(m.read(slot, pci.RegCapabilities, 1))
	if got := m.read(slot, at+2, 2); got != 2<<1|1<<7|1<<8 {
		t.Errorf("message control %#x", got)
	}
	trigger := func(i int) {
		t.Helper()
		if err := msi.Trigger(i); err != nil {
			t.Error(err)
		}
	}
	message := func(data uint32) int { return m.irq.Count(irq.Message{Address: 0xfee00000, Data: data}) }
	trigger(0) // not enabled: dropped
	m.write(slot, at+4, 8, 0xfee00000)
	m.write(slot, at+12, 2, 0x43)
	m.write(slot, at+2, 2, 1<<4|1) // two of four
	trigger(0)
	trigger(1)
	trigger(3) // folded to 1
	if message(0x42) != 1 || message(0x43) != 2 {
		t.Errorf("delivered %d, %d; want 1, 2", message(0x42), message(0x43))
	}
	m.write(slot, at+16, 4, 1)
	trigger(0)
	if message(0x42) != 1 || m.read(slot, at+20, 4) != 1 {
		t.Error("a masked vector was delivered or is not pending")
	}
	m.write(slot, at+16, 4, 0)
	if message(0x42) != 2 || m.read(slot, at+20, 4) != 0 {
		t.Error("unmasking did not deliver what is pending")
	}
	m.write(slot, at+2, 2, 7<<4|1) // more than there are
	trigger(3)
	if message(0x43) != 3 {
		t.Error("the fourth vector was not delivered")
	}
	m.write(slot, at+2, 2, 0)
	trigger(0)
	if message(0x40) != 0 || msi.Enabled() {
		t.Error("delivered while off")
	}
	m.root.Reset()
	if err := errors.Join(msi.Err(), msi.Close()); err != nil || m.irq.Open() != 0 {
		t.Errorf("%d vectors left, %v", m.irq.Open(), err)
	}
}

// TestWarns: what the guest asks for and the host can't do is told, once, with the function's name; what is the guest's own doing is not.
func TestWarns(t *testing.T) {
	type warning struct{ function, text string }
	var told []warning
	m := &machine{mapper: pcitest.NewMapper(), irq: pcitest.NewIRQ(1), t: t}
	var err error
	m.root, err = pci.NewRoot(pci.Options{Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irq, MMIO64: mmio64,
		Warn: func(function string, err error) { told = append(told, warning{function, err.Error()}) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.root.Close)
	x, err := pci.NewMSIX(m.irq, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := newFunction(t, map[int]pci.BAR{0: {Size: 0x2000, Is64: true, Traps: []pci.Trap{{Size: pci.MSIXTableSize(2), Handler: x.Table()}}}})
	if err := f.AddMSIX(x, 0, 0, 0, 0x1000); err != nil {
		t.Fatal(err)
	}
	mm := &msixMachine{machine: m, x: x}
	mm.slot = m.add(f)
	mm.cap = int(m.read(mm.slot, pci.RegCapabilities, 1))
	m.write(mm.slot, pci.RegCommand, 2, pci.CommandMemory)
	mm.bar = m.read(mm.slot, pci.RegBAR0, 8) &^ 15
	mm.control(msixEnable)
	for i := range 2 {
		mm.put(16*i+12, 4, 0)
	}
	mm.put(16+12, 4, 1)
	mm.put(16+12, 4, 0) // again
	if len(told) != 1 || told[0].function != f.Name() || !strings.Contains(told[0].text, "MSI-X vector 1 stays silent") ||
		!strings.Contains(told[0].text, pcitest.ErrNoVectors.Error()) {
		t.Errorf("of a vector that could not be had was told %q", told)
	}

	told = nil
	msi, err := pci.NewMSI(m.irq, 1)
	if err != nil {
		t.Fatal(err)
	}
	g := newFunction(t, map[int]pci.BAR{0: {Size: 0x1000, Hosts: []pci.Host{{Size: 0x1000, Addr: 0x1000}}}})
	if err := g.AddMSI(msi); err != nil {
		t.Fatal(err)
	}
	slot := m.add(g)
	m.write(slot, int(m.read(slot, pci.RegCapabilities, 1))+2, 2, 1)
	if len(told) != 1 || !strings.Contains(told[0].text, "MSI vector 0 stays silent") {
		t.Errorf("of an MSI vector that could not be had was told %q", told)
	}
	told = nil
	m.mapper.FailHosts(errors.New("no memory slot"))
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	if len(told) != 1 || !strings.Contains(told[0].text, "BAR 0 at") || !strings.Contains(told[0].text, "no memory slot") {
		t.Errorf("of a BAR that could not be mapped was told %q", told)
	}
	told = nil
	m.mapper.FailHosts(nil)
	m.write(slot, pci.RegCommand, 2, 0)
	trap := m.add(newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)}))
	m.write(trap, pci.RegBAR0, 4, mm.bar)
	m.write(trap, pci.RegBAR0+4, 4, mm.bar>>32)
	m.write(trap, pci.RegCommand, 2, pci.CommandMemory)
	if len(told) > 0 {
		t.Errorf("that the guest puts one BAR onto another was told %q", told)
	}
}

// TestWarningsEnd: a guest cannot cause more than a few.
func TestWarningsEnd(t *testing.T) {
	n := 0
	m := &machine{mapper: pcitest.NewMapper(), irq: pcitest.NewIRQ(1), t: t}
	var err error
	m.root, err = pci.NewRoot(pci.Options{Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irq, MMIO64: mmio64,
		Warn: func(string, error) { n++ }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.root.Close)
	m.mapper.FailHosts(errors.New("no memory slot"))
	slot := m.add(newFunction(t, map[int]pci.BAR{0: {Size: 0x1000, Hosts: []pci.Host{{Size: 0x1000, Addr: 0x1000}}}}))
	for i := range uint64(100) {
		m.write(slot, pci.RegCommand, 2, 0)
		m.write(slot, pci.RegBAR0, 4, 0xd0000000+i<<12)
		m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	}
	if n == 0 || n > 20 {
		t.Errorf("%d warnings", n)
	}
}
