package kvm

import (
	"testing"
	"time"
)

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
