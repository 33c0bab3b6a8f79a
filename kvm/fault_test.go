package kvm

import (
	"bytes"
	"strings"
	"testing"
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
