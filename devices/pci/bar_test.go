package pci_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/layout"
)

func TestBARDecode(t *testing.T) {
	m := newMachine(t)
	host := pci.Host{Off: 0x2000, Size: 0x1000, Addr: 0x7f0000000000, PeerToPeer: true}
	bell := pci.Doorbell{Off: 0x10, EventFD: 7}
	f := newFunction(t, map[int]pci.BAR{
		0: {Size: 0x4000, Is64: true, Traps: []pci.Trap{{Size: 0x1000, Handler: reg(1)}}, Hosts: []pci.Host{host}, Doorbells: []pci.Doorbell{bell}},
		2: {Size: 0x1000, Traps: []pci.Trap{{Size: 0x800, Handler: reg(2)}}},
		3: {Size: 0x20, Space: pci.IO, Traps: []pci.Trap{{Size: 0x20, Handler: reg(3)}}},
	})
	slot := m.add(f)
	bar0 := m.read(slot, pci.RegBAR0, 8) &^ 15
	bar2 := m.read(slot, pci.RegBAR0+8, 4) &^ 15
	bar3 := m.read(slot, pci.RegBAR0+12, 4) &^ 3
	if bar0 < mmio64.Start || bar0 >= mmio64.End() || bar2 < layout.MMIO32 || bar2 >= layout.ECAM || bar3 < layout.PIOWindow {
		t.Fatalf("BARs at %#x, %#x, %#x", bar0, bar2, bar3)
	}
	m.answers(bar0, false)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	m.answers(bar0, true)
	m.answers(bar0+0x1000, false) // no part there
	m.answers(bar2, true)
	var b [1]byte
	if m.ports.Read(bar3, b[:]) {
		t.Error("I/O BAR answers while only memory is decoded")
	}
	if n, h := m.mapper.Hosts(bar0 + 0x2000); n != 1 || h != host {
		t.Errorf("host parts: %d, %+v", n, h)
	}
	if n := m.mapper.Doorbells(); n != 1 {
		t.Errorf("%d doorbells", n)
	}
	m.write(slot, pci.RegCommand, 1, pci.CommandIO)
	if !m.ports.Read(bar3, b[:]) || b[0] != 3 {
		t.Error("I/O BAR does not answer")
	}
	m.answers(bar0, false)
	if n, _ := m.mapper.Hosts(0); n != 0 || m.mapper.Doorbells() != 0 {
		t.Error("parts stay mapped with decoding off")
	}

	// A move while decoded.
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	moved := mmio64.Start + 0x100000
	m.write(slot, pci.RegBAR0, 4, moved&0xffffffff)
	m.answers(bar0, false)
	m.answers(moved, true)
	if n, h := m.mapper.Hosts(moved + 0x2000); n != 1 || h != host {
		t.Errorf("host parts after the move: %d, %+v", n, h)
	}
	if n, err := f.Fault(); n != 0 {
		t.Errorf("%d faults, last %v", n, err)
	}
	f.Reset()
	if got := m.read(slot, pci.RegBAR0, 8) &^ 15; got != bar0 || m.read(slot, pci.RegCommand, 2) != 0 {
		t.Errorf("after a reset BAR 0 is %#x, want %#x", got, bar0)
	}
	m.answers(moved, false)
}

func TestSizing(t *testing.T) {
	m := newMachine(t)
	slot := m.add(newFunction(t, map[int]pci.BAR{0: trapBAR(0x4000, 1), 2: {Size: 0x100, Space: pci.IO}}))
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory|pci.CommandIO)
	addr := m.read(slot, pci.RegBAR0, 8)
	m.write(slot, pci.RegBAR0, 4, 0xffffffff)
	m.answers(addr&^15, false)
	if got := m.read(slot, pci.RegBAR0, 4); got != 0xffffc004 {
		t.Errorf("size mask %#x, want 0xffffc004", got)
	}
	m.answers(0x2ffffc000, false) // the pattern is no address
	m.write(slot, pci.RegBAR0, 4, addr&0xffffffff)
	m.answers(addr&^15, true)
	m.write(slot, pci.RegBAR0+4, 4, 0xffffffff)
	if got := m.read(slot, pci.RegBAR0+4, 4); got != 0xffffffff {
		t.Errorf("upper size mask %#x", got)
	}
	m.write(slot, pci.RegBAR0+4, 4, addr>>32)
	m.answers(addr&^15, true)
	m.write(slot, pci.RegBAR0+8, 4, 0xffffffff)
	if got := m.read(slot, pci.RegBAR0+8, 4); got != 0xff01 {
		t.Errorf("I/O size mask %#x, want 0xff01", got)
	}
	for _, reg := range []int{12, 16, 20, 24} { // unimplemented BARs and the ROM
		m.write(slot, pci.RegBAR0+reg, 4, 0xffffffff)
		if got := m.read(slot, pci.RegBAR0+reg, 4); got != 0 && reg < 24 {
			t.Errorf("unimplemented register %#x reads %#x", pci.RegBAR0+reg, got)
		}
	}
}

func TestBARWhereItMustNotBe(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: trapBAR(0x4000, 1), 2: trapBAR(0x4000, 2)})
	slot := m.add(f)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	home := m.read(slot, pci.RegBAR0, 8) &^ 15
	other := m.read(slot, pci.RegBAR0+8, 8) &^ 15
	for _, addr := range []uint64{0, 0x100000, layout.ECAM, layout.LAPIC, mmio64.End(), mmio64.Start - 0x4000, ^uint64(0x3fff)} {
		m.write(slot, pci.RegBAR0, 8, addr)
		var b [1]byte
		if m.memory.Read(addr, b[:]); b[0] == 1 {
			t.Errorf("BAR answers at %#x", addr)
		}
		m.answers(home, false)
	}
	m.write(slot, pci.RegBAR0, 8, other)
	if n, err := f.Fault(); n == 0 || !errors.Is(err, bus.ErrOverlap) {
		t.Errorf("a BAR moved onto another: %v", err)
	}
	m.write(slot, pci.RegBAR0, 8, home)
	m.answers(home, true)
	m.answers(other, true)
}

func TestMapHostFails(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: {Size: 0x4000, Is64: true,
		Traps: []pci.Trap{{Size: 0x1000, Handler: reg(1)}}, Hosts: []pci.Host{{Off: 0x1000, Size: 0x1000, Addr: 0x1000}}}})
	slot := m.add(f)
	cause := errors.New("no slots left")
	m.mapper.FailHosts(cause)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	m.answers(m.read(slot, pci.RegBAR0, 8)&^15, false)
	if _, err := f.Fault(); !errors.Is(err, cause) {
		t.Errorf("fault %v, want %v", err, cause)
	}
	m.mapper.FailHosts(nil)
	m.write(slot, pci.RegCommand, 2, 0)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	m.answers(m.read(slot, pci.RegBAR0, 8)&^15, true)
}

func TestSetBARRefuses(t *testing.T) {
	trap := func(off, size uint64) pci.Trap { return pci.Trap{Off: off, Size: size, Handler: reg(0)} }
	for name, c := range map[string]struct {
		index int
		bar   pci.BAR
	}{
		"size":         {0, pci.BAR{Size: 24}},
		"small":        {0, pci.BAR{Size: 8}},
		"64-bit last":  {5, pci.BAR{Size: 16, Is64: true}},
		"no register":  {6, pci.BAR{Size: 16}},
		"io 64":        {0, pci.BAR{Size: 16, Space: pci.IO, Is64: true}},
		"4 GiB in 32":  {0, pci.BAR{Size: 1 << 32}},
		"part outside": {0, pci.BAR{Size: 0x1000, Traps: []pci.Trap{trap(0x800, 0x801)}}},
		"part wraps":   {0, pci.BAR{Size: 0x1000, Traps: []pci.Trap{trap(^uint64(0), 2)}}},
		"part empty":   {0, pci.BAR{Size: 0x1000, Traps: []pci.Trap{trap(0, 0)}}},
		"overlap":      {0, pci.BAR{Size: 0x1000, Traps: []pci.Trap{trap(0, 8), trap(7, 8)}}},
		"host page":    {0, pci.BAR{Size: 0x1000, Hosts: []pci.Host{{Off: 0x800, Size: 0x800}}}},
		"lone bell":    {0, pci.BAR{Size: 0x1000, Doorbells: []pci.Doorbell{{Off: 0}}}},
	} {
		f := pci.NewFunction(pci.Header{Name: "test"})
		if err := f.SetBAR(c.index, c.bar); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNoRoom(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: {Size: 1 << 30}})
	if _, err := m.root.Add(-1, 0, f); err != nil {
		t.Fatal(err)
	}
	err := m.root.Assign()
	if err == nil || !strings.Contains(err.Error(), "test BAR 0") || !strings.Contains(err.Error(), "0x40000000") {
		t.Errorf("error %v does not name device, BAR and size", err)
	}
}

// slow holds its reader until it is released.
type slow struct{ entered, release chan struct{} }

func (h *slow) Read(uint64, []byte)  { h.entered <- struct{}{}; <-h.release }
func (h *slow) Write(uint64, []byte) {}

// A BAR that moves does not wait for who is in it; removal of the function does, also for
// who entered before the move.
func TestMoveAndRemoveWithCallInFlight(t *testing.T) {
	m := newMachine(t)
	h := &slow{make(chan struct{}), make(chan struct{})}
	f := newFunction(t, map[int]pci.BAR{0: {Size: 0x1000, Is64: true, Traps: []pci.Trap{{Size: 0x1000, Handler: h}}}})
	slot := m.add(f)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	home := m.read(slot, pci.RegBAR0, 8) &^ 15
	go m.memory.Read(home, make([]byte, 1))
	<-h.entered
	for n := range uint64(3) {
		m.write(slot, pci.RegBAR0, 4, (home+n*0x1000)&0xffffffff)
	}
	removed := make(chan struct{})
	go func() { m.root.Remove(f); close(removed) }()
	for m.read(slot, 0, 4) != 0xffffffff {
		runtime.Gosched()
	}
	select {
	case <-removed:
		t.Error("Remove did not wait")
	default:
	}
	close(h.release)
	<-removed
}

func TestRefresh(t *testing.T) {
	m := newMachine(t)
	f := newFunction(t, map[int]pci.BAR{0: trapBAR(0x1000, 1)})
	on := true
	f.AddHook(pci.Hook{Powered: func() bool { return on }})
	slot := m.add(f)
	m.write(slot, pci.RegCommand, 2, pci.CommandMemory)
	home := m.read(slot, pci.RegBAR0, 8) &^ 15
	for _, want := range []bool{true, false, true} {
		on = want
		f.Refresh()
		m.answers(home, want)
	}
}
