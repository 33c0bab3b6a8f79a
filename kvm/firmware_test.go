package kvm

import "testing"

// vendorLeaf is leaf 0 of a CPU whose maker's name has 12 letters.
func vendorLeaf(name string) []CPUIDEntry {
	word := func(at int) uint32 {
		return uint32(name[at]) | uint32(name[at+1])<<8 | uint32(name[at+2])<<16 | uint32(name[at+3])<<24
	}
	return []CPUIDEntry{leaf(0, 0, 1, word(0), word(8), word(4))}
}

// TestFirmwareMSRs: each vCPU has the host's microcode revision, and what firmware sets on the CPUs of its vendor, beside
// the bits that were there.
func TestFirmwareMSRs(t *testing.T) {
	const pebsUnavailable = 1 << 12
	g := newGuest(t, true)
	host, ok := g.sys.FeatureMSR(msrMicrocode)
	if !ok || host.Data == 0 {
		t.Fatalf("KVM says nothing of the host's microcode: %+v, %t", host, ok)
	}
	for i, test := range []struct {
		vendor     string
		hwcr, misc uint64
	}{
		{"AuthenticAMD", hwcrTSCFreqSel, pebsUnavailable},
		{"HygonGenuine", hwcrTSCFreqSel, pebsUnavailable},
		{"GenuineIntel", 0, miscFastString | pebsUnavailable},
		{"  Shanghai  ", 0, miscFastString | pebsUnavailable},
	} {
		c := g.unbound(i)
		if c.SetMSRs(MSR{Index: msrHWCR, Data: hwcrTSCFreqSel}) != nil { // before Linux 6.7
			test.hwcr = 0
		}
		check(t, c.SetMSRs(MSR{Index: msrMicrocode}, MSR{Index: msrHWCR}, MSR{Index: msrMiscEnable, Data: pebsUnavailable}))
		c.SetFirmwareMSRs(g.sys, vendorLeaf(test.vendor))
		got, err := c.MSRs(msrMicrocode, msrHWCR, msrMiscEnable)
		check(t, err)
		if got[0].Data != host.Data || got[1].Data != test.hwcr || got[2].Data != test.misc {
			t.Errorf("%s: microcode %#x, want %#x; HWCR %#x, want %#x; MISC_ENABLE %#x, want %#x", test.vendor,
				got[0].Data, host.Data, got[1].Data, test.hwcr, got[2].Data, test.misc)
		}
	}
}

// TestFirmwareMSRsRefused: what KVM does not know is left alone.
func TestFirmwareMSRsRefused(t *testing.T) {
	const unknown = 0xdead0000
	g := newGuest(t, true)
	if m, ok := g.sys.FeatureMSR(unknown); ok {
		t.Errorf("feature MSR %#x has %#x", unknown, m.Data)
	}
	c := g.unbound(0)
	c.setMSRBits(unknown, 1)
	check(t, c.SetMSRs(MSR{Index: msrHWCR}))
	c.setMSRBits(msrHWCR, 1<<40)
	if got, err := c.MSRs(msrHWCR); err != nil || got[0].Data != 0 {
		t.Errorf("HWCR %+v, %v", got, err)
	}
	check(t, c.Close())
	c.SetFirmwareMSRs(g.sys, nil) // a vCPU that is gone refuses all of it
}
