package kvm

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestMain fails when a test leaves a descriptor open.
func TestMain(m *testing.M) {
	// The runtime's poller and the pidfd probe of package os open descriptors once.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	before := openFDs()
	code := m.Run()
	for fd, target := range openFDs() {
		if _, ok := before[fd]; !ok && code == 0 {
			fmt.Fprintf(os.Stderr, "leaked descriptor %s: %s\n", fd, target)
			code = 1
		}
	}
	os.Exit(code)
}

func openFDs() map[string]string {
	fds := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds[e.Name()] = target
		}
	}
	return fds
}

// guest is a VM with RAM at 0 for code of a few bytes.
type guest struct {
	t   testing.TB
	sys *System
	vm  *VM
	ram []byte
}

// Where things are in a guest's RAM.
const (
	guestRAM   = 1 << 20
	codeAddr   = 0x1000
	dataAddr   = 0x3000
	handler    = 0x4000 // of interrupts
	idtAddr    = 0x5000
	stackTop   = 0x8000
	apCode     = 0x9000
	mmioAddr   = 0x10000000 // no slot
	testPort   = 0x510
	ramSlot    = 0
	exitLimit  = 10 * time.Second // generous: only a hang should meet it
	testVector = 0x50
)

func newSystem(t testing.TB) *System {
	t.Helper()
	testenv.KVM(t)
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

// newGuest makes a VM with RAM and, if asked, interrupt controllers.
func newGuest(t testing.TB, irqchip bool) *guest {
	t.Helper()
	return newGuestOn(t, newSystem(t), irqchip)
}

func newGuestOn(t testing.TB, s *System, irqchip bool) *guest {
	t.Helper()
	ram, err := sys.MapAnonymous(guestRAM)
	check(t, err)
	t.Cleanup(func() { check(t, ram.Close()) })
	vm, err := s.CreateVM()
	check(t, err)
	t.Cleanup(func() { check(t, vm.Close()) })
	check(t, vm.SetMemorySlot(MemorySlot{Slot: ramSlot, Size: guestRAM, Host: ram.Addr()}))
	if irqchip {
		check(t, vm.CreateIRQChip())
	}
	return &guest{t: t, sys: s, vm: vm, ram: ram.Bytes()}
}

// vcpu makes a vCPU with CPUID that is bound to the test's goroutine and closed at the end.
func (g *guest) vcpu(id int) *VCPU {
	g.t.Helper()
	c := g.unbound(id)
	c.Bind()
	g.t.Cleanup(c.Unbind)
	return c
}

// unbound makes a vCPU with CPUID; the test may set another one.
func (g *guest) unbound(id int) *VCPU {
	g.t.Helper()
	c := g.blank(id)
	supported, err := g.sys.SupportedCPUID()
	check(g.t, err)
	check(g.t, c.SetCPUID(GuestCPUID(supported, CPUIDOptions{VCPU: id, VCPUs: id + 1})))
	return c
}

// blank makes a vCPU as KVM does, which has no CPUID.
func (g *guest) blank(id int) *VCPU {
	g.t.Helper()
	c, err := g.vm.CreateVCPU(id)
	check(g.t, err)
	g.t.Cleanup(func() { check(g.t, c.Close()) })
	return c
}

// realMode lets c start code at codeAddr in real mode.
func (g *guest) realMode(c *VCPU, code ...[]byte) {
	g.t.Helper()
	g.place(codeAddr, code...)
	s, err := c.Sregs()
	check(g.t, err)
	for _, segment := range []*Segment{&s.CS, &s.DS, &s.ES, &s.SS} {
		segment.Base, segment.Selector = 0, 0
	}
	check(g.t, c.SetSregs(s))
	check(g.t, c.SetRegs(&Regs{RIP: codeAddr, RSP: stackTop, RFLAGS: rflagsReserved}))
}

// protectedMode lets c start code at codeAddr in flat 32-bit mode without paging.
func (g *guest) protectedMode(c *VCPU, code ...[]byte) {
	g.t.Helper()
	g.place(codeAddr, code...)
	s, err := c.Sregs()
	check(g.t, err)
	s.CS = flatSegment(0x08, 0xb)
	s.CS.DB = 1
	data := flatSegment(0x10, 0x3)
	data.DB = 1
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR0 |= cr0PE
	check(g.t, c.SetSregs(s))
	check(g.t, c.SetRegs(&Regs{RIP: codeAddr, RSP: stackTop, RFLAGS: rflagsReserved}))
}

// longMode lets c start code at codeAddr at CPL 0 of 64-bit mode, with the first 4 GiB
// mapped to themselves.
func (g *guest) longMode(c *VCPU, code ...[]byte) {
	g.t.Helper()
	g.place(codeAddr, code...)
	s, err := c.Sregs()
	check(g.t, err)
	enterLongMode(s, g.ram)
	check(g.t, c.SetSregs(s))
	check(g.t, c.SetRegs(&Regs{RIP: codeAddr, RSP: stackTop, RFLAGS: rflagsReserved}))
}

func (g *guest) place(addr int, code ...[]byte) {
	for _, part := range code {
		addr += copy(g.ram[addr:], part)
	}
}

// next runs c and fails the test unless the exit has the wanted reason.
func (g *guest) next(c *VCPU, want Reason) Exit {
	g.t.Helper()
	stop := time.AfterFunc(exitLimit, func() { c.Kick() })
	defer stop.Stop()
	exit, err := c.Run()
	check(g.t, err)
	if exit.Reason != want {
		g.t.Fatalf("exit: %v, want %v\n%s", exit, want, c.Describe())
	}
	return exit
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// code joins instructions.
func code(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			b = append(b, byte(v))
		case uint16:
			b = append(b, byte(v), byte(v>>8))
		case uint32:
			b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}
