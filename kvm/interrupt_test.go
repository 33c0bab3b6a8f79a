package kvm

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
)

const (
	gdtAddr  = 0x6000
	lapicGPA = 0xfee00000
	// Vectors testVector to testVector+handlers-1 have a handler.
	handlers      = 8
	handlerStride = 32
)

// interruptCode is 64-bit code that waits for interrupts.
var interruptCode = []byte{
	0xfb,       // sti
	0xf4,       // hlt
	0xeb, 0xfc, // jmp to sti
}

// interrupts prepares c, in long mode, to take testVector and those after it: each handler
// writes its vector to testPort and ends the interrupt.
func (g *guest) interrupts(c *VCPU) {
	g.t.Helper()
	put := binary.LittleEndian.PutUint64
	put(g.ram[gdtAddr+8:], 0x00af9b000000ffff)  // 64-bit code
	put(g.ram[gdtAddr+16:], 0x00cf93000000ffff) // data
	for i := range handlers {
		vector, addr := testVector+i, handler+i*handlerStride
		g.place(addr, code(
			0xb8, uint32(vector), // mov eax, vector
			0x66, 0xba, uint16(testPort), // mov dx, testPort
			0xef,                        // out dx, eax
			0xb9, uint32(lapicGPA+0xb0), // mov ecx, EOI
			0xc7, 0x01, uint32(0), // mov dword [rcx], 0
			0x48, 0xcf)) // iretq
		// Interrupt gate of SDM 3A, 6.14.1: selector 8, present, type 0xe.
		put(g.ram[idtAddr+16*vector:], uint64(addr)|0x8<<16|0x8e00<<32)
	}
	s, err := c.Sregs()
	check(g.t, err)
	s.GDT.Base, s.GDT.Limit = gdtAddr, 0x17
	s.IDT.Base, s.IDT.Limit = idtAddr, 0xfff
	check(g.t, c.SetSregs(s))
	enableLAPIC(g.t, c)
}

// enableLAPIC switches the local APIC on and its ExtINT pin off: no PIC is set up.
func enableLAPIC(t testing.TB, c *VCPU) {
	t.Helper()
	lapic, err := c.LAPIC()
	check(t, err)
	binary.LittleEndian.PutUint32(lapic.Regs[0xf0:], 0x1ff)    // spurious vector, enabled
	binary.LittleEndian.PutUint32(lapic.Regs[0x350:], 0x10000) // LINT0 masked
	check(t, c.SetLAPIC(lapic))
}

// route programs a pin of the I/O APIC for vCPU 0.
func (g *guest) route(pin, vector int, level bool) {
	g.t.Helper()
	state, err := g.vm.IRQChip(IOAPIC)
	check(g.t, err)
	entry := uint64(vector)
	if level {
		entry |= 1 << 15
	}
	binary.LittleEndian.PutUint64(state.Chip[24+8*pin:], entry) // kvm_ioapic_state.redirtbl
	check(g.t, g.vm.SetIRQChip(state))
}

// waiting starts a guest that reports its interrupts.
func waiting(t testing.TB) (*guest, *runner) {
	t.Helper()
	g := newGuest(t, true)
	c := g.unbound(0)
	g.longMode(c, interruptCode)
	g.interrupts(c)
	return g, g.start(c, nil)
}

func (g *guest) eventFD() *sys.EventFD {
	g.t.Helper()
	e, err := sys.NewEventFD()
	check(g.t, err)
	g.t.Cleanup(func() { check(g.t, e.Close()) })
	return e
}

func msi(vector int) MSI { return MSI{Address: lapicGPA, Data: uint32(vector)} }

func TestIRQFDThroughIOAPIC(t *testing.T) {
	g, r := waiting(t)
	const pin = 5
	g.route(pin, testVector, false)
	e := g.eventFD()
	check(t, g.vm.AttachIRQFD(pin, e.Int(), NoResample))
	if err := g.vm.AttachIRQFD(pin, e.Int(), NoResample); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("second attach: %v, want EBUSY", err)
	}
	for range 10 {
		check(t, e.Signal())
		r.wantOut(testVector)
	}
	check(t, g.vm.DetachIRQFD(pin, e.Int()))
	check(t, e.Signal())
	r.quiet()
	if n := e.TryWait(); n != 1 {
		t.Errorf("after detaching: counter %d, want 1", n)
	}
}

func TestResampleOnEOI(t *testing.T) {
	g, r := waiting(t)
	const pin = 10
	g.route(pin, testVector+1, true)
	trigger, resample := g.eventFD(), g.eventFD()
	check(t, g.vm.AttachIRQFD(pin, trigger.Int(), resample.Int()))
	for range 5 {
		check(t, trigger.Signal())
		r.wantOut(testVector + 1)
		n, err := resample.Wait()
		if err != nil || n != 1 {
			t.Fatalf("resample: %d, %v", n, err)
		}
	}
	r.quiet() // the line went down each time
}

func TestIRQLine(t *testing.T) {
	g, r := waiting(t)
	g.route(7, testVector+2, false)
	for range 3 {
		check(t, g.vm.IRQLine(7, true))
		check(t, g.vm.IRQLine(7, false))
		r.wantOut(testVector + 2)
	}
}

func TestSignalMSI(t *testing.T) {
	g, r := waiting(t)
	delivered, err := g.vm.SignalMSI(msi(testVector + 3))
	if err != nil || !delivered {
		t.Fatalf("delivered %v, %v", delivered, err)
	}
	r.wantOut(testVector + 3)
}

func TestPendingSignalIsRaisedOnAttach(t *testing.T) {
	g, r := waiting(t)
	g.route(5, testVector, false)
	e := g.eventFD()
	check(t, e.Signal())
	check(t, g.vm.AttachIRQFD(5, e.Int(), NoResample))
	r.wantOut(testVector)
}

func TestRoutingBatch(t *testing.T) {
	g, r := waiting(t)
	routing := g.vm.Routing()
	var gsis [handlers]uint32
	var events [handlers]*sys.EventFD
	for i := range gsis {
		gsi, err := routing.AllocGSI()
		check(t, err)
		if gsi < Pins {
			t.Fatalf("GSI %d is a pin", gsi)
		}
		gsis[i], events[i] = gsi, g.eventFD()
		check(t, routing.SetMSI(gsi, msi(testVector+i)))
		check(t, g.vm.AttachIRQFD(gsi, events[i].Int(), NoResample))
	}
	check(t, routing.Commit())
	for i, e := range events {
		check(t, e.Signal())
		r.wantOut(uint32(testVector + i))
	}
	// Wired pins live on in the table.
	g.route(5, testVector, false)
	check(t, g.vm.IRQLine(5, true))
	r.wantOut(testVector)

	// Two change places, one goes; nothing happens before Commit.
	check(t, routing.SetMSI(gsis[0], msi(testVector+1)))
	check(t, routing.SetMSI(gsis[1], msi(testVector)))
	routing.ClearMSI(gsis[2])
	check(t, events[2].Signal())
	r.wantOut(testVector + 2)
	check(t, routing.Commit())
	check(t, events[2].Signal())
	r.quiet()
	check(t, events[0].Signal())
	r.wantOut(testVector + 1)
	check(t, events[1].Signal())
	r.wantOut(testVector)
}

func TestRoutingHandsOutEachGSIOnce(t *testing.T) {
	g := newGuest(t, true)
	routing := g.vm.Routing()
	seen := map[uint32]bool{}
	for {
		gsi, err := routing.AllocGSI()
		if err != nil {
			break
		}
		if seen[gsi] || gsi < Pins {
			t.Fatalf("GSI %d", gsi)
		}
		seen[gsi] = true
		check(t, routing.SetMSI(gsi, msi(testVector)))
	}
	if len(seen) < 1000 {
		t.Errorf("%d GSIs, want more", len(seen))
	}
	check(t, routing.Commit()) // the kernel takes a full table
	routing.FreeGSI(Pins)
	routing.FreeGSI(Pins)
	routing.FreeGSI(3) // a pin, ignored
	if gsi, err := routing.AllocGSI(); err != nil || gsi != Pins {
		t.Errorf("after freeing %d: %d, %v", Pins, gsi, err)
	}
	if _, err := routing.AllocGSI(); err == nil {
		t.Error("freeing twice gave two")
	}
	if err := routing.SetMSI(3, msi(testVector)); err == nil {
		t.Error("a pin was routed")
	}
}

func TestTwoVCPUs(t *testing.T) {
	g := newGuest(t, true)
	bsp, ap := g.unbound(0), g.unbound(1)
	g.longMode(bsp, code(
		0xb9, uint32(lapicGPA+0x310), // mov ecx, ICR high
		0xc7, 0x01, uint32(1<<24), // mov dword [rcx], 1<<24 (to APIC 1)
		0x83, 0xe9, 0x10, // sub ecx, 0x10 (ICR low)
		0xc7, 0x01, uint32(0x4500), // mov dword [rcx], INIT
		0xc7, 0x01, uint32(0x4600|apCode>>12), // mov dword [rcx], SIPI
		0xfa, 0xf4, 0xeb, 0xfd)) // cli; hlt; jmp to hlt
	enableLAPIC(t, bsp)
	g.place(apCode, code( // real mode, CS:IP = apCode>>4:0
		0xb0, 0x42, // mov al, 0x42
		0xba, uint16(testPort), // mov dx, testPort
		0xee,                    // out dx, al
		0xfa, 0xf4, 0xeb, 0xfd)) // cli; hlt; jmp to hlt
	if state, err := ap.MPState(); err != nil || state != Uninitialized {
		t.Errorf("second vCPU: state %d, %v; want that it waits for INIT", state, err)
	}
	second := g.start(ap, nil)
	g.start(bsp, nil)
	second.wantOut(0x42)
}
