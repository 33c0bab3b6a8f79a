package kvm

import "testing"

// What the guest reads is what KVM believes that it reads: KVM computes the deadline timer from it.
func TestGuestTSC(t *testing.T) {
	const tsc = 0x10
	g := newGuest(t, false)
	c := g.vcpu(0)
	check(t, c.SetHostTSCKHz())
	read := func() uint64 {
		t.Helper()
		msrs, err := c.MSRs(tsc)
		check(t, err)
		return msrs[0].Data
	}
	g.longMode(c, []byte{0x0f, 0x31, 0xf4}) // rdtsc; hlt
	before := read()
	g.next(c, ExitHLT)
	regs, err := c.Regs()
	check(t, err)
	after := read()
	if guest := regs.RDX<<32 | regs.RAX; guest < before || guest > after {
		t.Fatalf("the guest read %d, KVM %d before and %d after", guest, before, after)
	}
}
