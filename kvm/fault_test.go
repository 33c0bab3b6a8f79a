package kvm

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

func TestTripleFault(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(
		0x0f, 0x01, 0x1c, 0x25, uint32(dataAddr), // lidt [dataAddr]: limit 0
		0x0f, 0x0b)) // ud2
	exit := g.next(c, ExitShutdown)
	if got := exit.String(); got != "shutdown (triple fault)" {
		t.Errorf("described as %q", got)
	}
}

func TestDescribe(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(0xb8, uint32(0xfeed), 0xf4)) // mov eax, 0xfeed; hlt
	g.next(c, ExitHLT)
	got := c.Describe()
	for _, part := range []string{"vCPU 0, 64-bit mode", "rip 0008:0000000000001006", "rsp 0010:0000000000008000",
		"cr3 000000000000a000", "rax feed"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
}

func TestMode(t *testing.T) {
	tests := map[string]struct {
		r Regs
		s Sregs
	}{
		"real mode":             {Regs{}, Sregs{}},
		"virtual-8086 mode":     {Regs{RFLAGS: rflagsVM}, Sregs{CR0: cr0PE}},
		"16-bit protected mode": {Regs{}, Sregs{CR0: cr0PE}},
		"32-bit protected mode": {Regs{}, Sregs{CR0: cr0PE, CS: Segment{DB: 1}}},
		"compatibility mode":    {Regs{}, Sregs{CR0: cr0PE, EFER: eferLMA, CS: Segment{DB: 1}}},
		"64-bit mode":           {Regs{}, Sregs{CR0: cr0PE, EFER: eferLMA, CS: Segment{L: 1}}},
	}
	for want, test := range tests {
		if got := mode(&test.r, &test.s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestInstructionThatCannotBeEmulated loads the FPU from MMIO, which no KVM emulates.
func TestInstructionThatCannotBeEmulated(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	fld := []byte{0xd9, 0x03} // fld dword [rbx]
	g.longMode(c, code(0xbb, uint32(mmioAddr)), fld, hlt)
	exit := g.next(c, ExitInternalError)
	e := exit.InternalError()
	if e.SubError != 1 {
		t.Fatalf("suberror %d, want 1", e.SubError)
	}
	if len(e.Instruction) > 0 && !bytes.HasPrefix(e.Instruction, fld) {
		t.Errorf("instruction % x, want % x", e.Instruction, fld)
	}
	if got := exit.String(); !strings.Contains(got, "can't be emulated") {
		t.Errorf("described as %q", got)
	}
}

// faulty is a KVM that meets host memory that is gone.
type faulty struct {
	linux
	errno  syscall.Errno
	reason uint32
}

func (k faulty) enter(c *VCPU) error {
	if !c.vm.first.done.Load() {
		return k.linux.enter(c)
	}
	c.run.ExitReason = k.reason
	*union[uapi.RunMemoryFault](c) = uapi.RunMemoryFault{GPA: 0x1234000, Size: 4096}
	return k.errno
}

func TestMemoryFaultNamesAddress(t *testing.T) {
	for _, test := range []struct {
		kernel faulty
		told   bool
	}{
		{faulty{errno: syscall.EFAULT, reason: 39}, true},
		{faulty{errno: unix.EHWPOISON, reason: 39}, true},
		{faulty{errno: syscall.EFAULT, reason: uapi.ExitIO}, false},
	} {
		s := newSystem(t)
		s.kernel = test.kernel
		c := newGuestOn(t, s, false).vcpu(0)
		_, err := c.Run()
		if !errors.Is(err, test.kernel.errno) || strings.Contains(err.Error(), "guest-physical 0x1234000, 4096 bytes") != test.told {
			t.Errorf("%+v: %v", test.kernel, err)
		}
	}
}

// TestMemoryGone takes this process's access to the memory behind a slot away: an error, with an
// address where KVM tells it.
func TestMemoryGone(t *testing.T) {
	g := newGuest(t, false)
	ram, err := sys.MapAnonymous(0x1000)
	check(t, err)
	check(t, g.vm.SetMemorySlot(MemorySlot{Slot: 1, GPA: mmioAddr, Size: 0x1000, Host: ram.Addr()}))
	t.Cleanup(func() { check(t, ram.Close()) })
	check(t, unix.Mprotect(ram.Bytes(), unix.PROT_NONE))
	c := g.vcpu(0)
	g.longMode(c, code(0xbb, uint32(mmioAddr), 0x89, 0x03, 0xf4)) // mov ebx, mmioAddr; mov [rbx], eax; hlt
	exit, err := c.Run()
	if err == nil && exit.Reason == ExitMMIO {
		return // what an emulator makes of it
	}
	if !errors.Is(err, syscall.EFAULT) {
		t.Fatalf("exit %v, %v, want EFAULT", exit, err)
	}
	t.Log(err)
	if c.run.ExitReason == uapi.ExitMemoryFault && !strings.Contains(err.Error(), "0x10000000") {
		t.Errorf("%v lacks the address", err)
	}
}

func TestSingleStep(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(0x90, 0x90, 0x90, 0xf4)) // nop; nop; nop; hlt
	check(t, c.SetSingleStep(true))
	for i := range uint64(2) {
		d := g.next(c, ExitDebug).Debug()
		if d.PC != codeAddr+1+i || d.Exception != 1 {
			t.Fatalf("step %d: %+v", i, d)
		}
	}
	check(t, c.SetSingleStep(false))
	g.next(c, ExitHLT)
}
