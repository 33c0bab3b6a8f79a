package kvm

import "fmt"

// Bits of control registers and EFER (Intel SDM 3A, 2.5 and 2.2.1).
const (
	cr0PE   = 1 << 0
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsVM       = 1 << 17
	rflagsReserved = 1 << 1 // reads as 1
)

// Describe tells in three lines where the vCPU is and in which mode, for the message about
// a guest that died. It does not fail: what can't be read is said so.
func (c *VCPU) Describe() string {
	r, err := c.Regs()
	if err != nil {
		return err.Error()
	}
	s, err := c.Sregs()
	if err != nil {
		return err.Error()
	}
	return describe(c.id, r, s)
}

func describe(id int, r *Regs, s *Sregs) string {
	return fmt.Sprintf("vCPU %d, %s: rip %04x:%016x rsp %04x:%016x rflags %08x\n"+
		"cr0 %08x cr2 %016x cr3 %016x cr4 %08x efer %04x\n"+
		"rax %x rbx %x rcx %x rdx %x rsi %x rdi %x rbp %x idt %x/%x gdt %x/%x",
		id, mode(r, s), s.CS.Selector, r.RIP, s.SS.Selector, r.RSP, r.RFLAGS,
		s.CR0, s.CR2, s.CR3, s.CR4, s.EFER,
		r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP, s.IDT.Base, s.IDT.Limit, s.GDT.Base, s.GDT.Limit)
}

func mode(r *Regs, s *Sregs) string {
	switch {
	case s.CR0&cr0PE == 0:
		return "real mode"
	case r.RFLAGS&rflagsVM != 0:
		return "virtual-8086 mode"
	case s.EFER&eferLMA != 0 && s.CS.L != 0:
		return "64-bit mode"
	case s.EFER&eferLMA != 0:
		return "compatibility mode"
	case s.CS.DB != 0:
		return "32-bit protected mode"
	}
	return "16-bit protected mode"
}
