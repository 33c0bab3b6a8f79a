package kvm

import (
	"reflect"
	"testing"
)

// TestReset changes what a guest can change, and more, and puts everything back.
func TestReset(t *testing.T) {
	g := newGuest(t, true)
	check(t, g.vm.SetTSSAddr(0xfffbd000))
	check(t, g.vm.SetIdentityMapAddr(0xfffbc000))
	check(t, g.vm.CreatePIT2(true))
	parts, err := g.sys.StateParts()
	check(t, err)
	supported, err := g.sys.SupportedCPUID()
	check(t, err)
	var cpus []*VCPU
	for id := range 2 {
		c := g.unbound(id)
		check(t, c.SetCPUID(GuestCPUID(supported, CPUIDOptions{VCPU: id, VCPUs: 2})))
		cpus = append(cpus, c)
	}
	var before []*CPUState
	for _, c := range cpus {
		s, err := c.Save(parts)
		check(t, err)
		before = append(before, s)
	}
	chips, err := g.vm.SaveChips()
	check(t, err)
	for range 2 { // each round finds what the other left
		for _, c := range cpus {
			disturb(t, c)
		}
		pit, err := g.vm.PIT2()
		check(t, err)
		pit.Channels[2].Count, pit.Channels[2].Mode = 99, 3
		check(t, g.vm.SetPIT2(pit))
		io, err := g.vm.IRQChip(IOAPIC)
		check(t, err)
		io.Chip[24] = 0x55
		check(t, g.vm.SetIRQChip(io))
		for i, c := range cpus {
			check(t, c.Restore(before[i]))
		}
		check(t, g.vm.RestoreChips(chips))
		for i, c := range cpus {
			after, err := c.Save(parts)
			check(t, err)
			compareStates(t, i, before[i], after)
		}
		again, err := g.vm.SaveChips()
		check(t, err)
		for i := range chips.chips {
			if chips.chips[i].Chip != again.chips[i].Chip {
				t.Errorf("interrupt controller %d: % x, was % x", i, again.chips[i].Chip, chips.chips[i].Chip)
			}
		}
		if got, want := again.pit.Channels[2], chips.pit.Channels[2]; got.Count != want.Count || got.Mode != want.Mode {
			t.Errorf("timer %+v, was %+v", got, want)
		}
	}
}

// disturb gives a vCPU other state of each kind.
func disturb(t *testing.T, c *VCPU) {
	t.Helper()
	const kvmSystemTime, pat, starMSR = 0x4b564d01, 0x277, 0xc0000081
	s, err := c.Sregs()
	check(t, err)
	s.ApicBase |= 1 << 10 // x2APIC
	s.CR3, s.CR8 = 0x5000, 3
	check(t, c.SetSregs(s))
	enableLAPIC(t, c)
	check(t, c.SetRegs(&Regs{RAX: 1, RIP: 0x1234, RFLAGS: rflagsReserved}))
	check(t, c.SetMSRs(MSR{Index: pat, Data: 0x0007010600070106}, MSR{Index: starMSR, Data: 0x23001000000000},
		MSR{Index: kvmSystemTime, Data: 0x3001}, MSR{Index: msrMTRRPhysical, Data: 6}))
	check(t, c.NMI())
	check(t, c.SetMPState(Halted))
	check(t, c.SetDebugRegs(&DebugRegs{DB: [4]uint64{1, 2, 3, 4}, DR6: 0xffff0ff0, DR7: 0x400}))
	x, err := c.XSave()
	check(t, err)
	x[xmm(0)] = 0x34
	x[xstateBV] |= 2
	check(t, c.SetXSave(x))
}

func compareStates(t *testing.T, cpu int, want, got *CPUState) {
	t.Helper()
	for i := range want.msrs {
		if w, g := want.msrs[i], got.msrs[i]; w != g && w.Index != msrTSC {
			t.Errorf("vCPU %d: MSR %#x is %#x, was %#x", cpu, w.Index, g.Data, w.Data)
		}
	}
	for _, part := range []struct {
		name      string
		want, got any
	}{
		{"regs", want.regs, got.regs}, {"sregs", want.sregs, got.sregs}, {"xcrs", want.xcrs, got.xcrs},
		{"debug", want.debug, got.debug}, {"lapic", want.lapic, got.lapic}, {"events", want.events, got.events},
		{"mp", want.mp, got.mp}, {"nested", want.nested, got.nested}, {"ssp", want.ssp, got.ssp},
	} {
		if !reflect.DeepEqual(part.want, part.got) {
			t.Errorf("vCPU %d: %s\n%+v, was\n%+v", cpu, part.name, part.got, part.want)
		}
	}
	if want.xsave[xstateBV]&2 == 0 && got.xsave[xstateBV]&2 != 0 && got.xsave[xmm(0)] != 0 {
		t.Errorf("vCPU %d: xmm0 has %#x", cpu, got.xsave[xmm(0)])
	}
}
