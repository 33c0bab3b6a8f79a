package kvm

import (
	"testing"
	"testing/fstest"
	"time"
)

// TestUsesAVIC: only there is it worth two grace periods that the guest's ticks are lost.
func TestUsesAVIC(t *testing.T) {
	const avic = "module/kvm_amd/parameters/avic"
	for content, want := range map[string]bool{"Y\n": true, "1\n": true, "N\n": false, "0\n": false, "": false} {
		if got := UsesAVIC(fstest.MapFS{avic: {Data: []byte(content)}}); got != want {
			t.Errorf("with avic %q: %v, want %v", content, got, want)
		}
	}
	if UsesAVIC(fstest.MapFS{}) {
		t.Error("KVM without kvm_amd uses AVIC")
	}
}

// TestPITLosesTicks: ticks that a guest could not take are lost. Where KVM reinjects them, they follow at once,
// and the next ones seem to come faster than the timer ticks.
func TestPITLosesTicks(t *testing.T) {
	const period, ticks = 1193, 200 // of 1/1193182 s: 1 ms
	g := newGuest(t, true)
	check(t, g.vm.CreatePIT2(true))
	g.vm.LoseTicks()
	c := g.vcpu(0)
	g.longMode(c, interruptCode)
	g.interrupts(c)
	g.route(0, testVector, false)
	pit, err := g.vm.PIT2()
	check(t, err)
	pit.Channels[0].Count, pit.Channels[0].Mode, pit.Channels[0].Gate = period, 2, 1
	check(t, g.vm.SetPIT2(pit))
	g.next(c, ExitIO)
	time.Sleep(3 * ticks * time.Millisecond) // the guest stands in its handler
	begin := time.Now()
	for range ticks {
		g.next(c, ExitIO)
	}
	if took := time.Since(begin); took < ticks/2*time.Millisecond {
		t.Errorf("%d ticks of 1 ms came within %v", ticks, took)
	}
}
