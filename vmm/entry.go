package vmm

import (
	"fmt"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/kvm"
)

// MSRs set before the guest runs (Intel SDM volume 4; the same on AMD).
const (
	msrMTRRDefType = 0x2ff
	// mtrrWriteBack enables MTRRs with write-back as the type of all memory. Linux
	// switches PAT off where MTRRs are off.
	mtrrWriteBack = 1<<11 | 6
)

// enter puts vCPU 0 into the state that the kernel expects.
func enter(c *kvm.VCPU, e boot.Entry) error {
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	s.GDT.Base, s.GDT.Limit = e.GDT.Base, e.GDT.Limit
	s.IDT.Base, s.IDT.Limit = e.IDT.Base, e.IDT.Limit
	s.CS, s.TR = segment(e.CS), segment(e.TR)
	data := segment(e.Data)
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	if err := c.SetSregs(s); err != nil {
		return err
	}
	regs := kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RBX: e.RBX, RFLAGS: e.RFLAGS}
	if err := c.SetRegs(&regs); err != nil {
		return fmt.Errorf("enter the kernel at %#x: %w", e.RIP, err)
	}
	return nil
}

func segment(s boot.SegmentRegister) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Typ: s.Type, Present: s.Present, DPL: s.DPL,
		DB: s.DB, S: s.S, L: s.L, G: s.G, AVL: s.AVL,
	}
}
