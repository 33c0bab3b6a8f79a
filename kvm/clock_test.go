package kvm

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMarkStopped has a guest wait for the flag in its kvmclock that says that it was stopped.
func TestMarkStopped(t *testing.T) {
	const (
		systemTime   = 0x4b564d01
		flags        = 29 // in struct pvclock_vcpu_time_info (Documentation/virt/kvm/x86/msr.rst)
		guestStopped = 2
	)
	g := newGuest(t, true)
	c := g.vcpu(0)
	check(t, c.MarkStopped())                     // no clock yet
	g.longMode(c, []byte{0xe6, 0x80, 0xeb, 0xfc}) // again: out %al, $0x80; jmp again
	check(t, c.SetMSRs(MSR{Index: systemTime, Data: dataAddr | 1}))
	g.next(c, ExitIO)
	if g.ram[dataAddr+flags]&guestStopped != 0 {
		t.Fatal("the guest was stopped before it ran")
	}
	check(t, c.MarkStopped())
	g.next(c, ExitIO)
	if g.ram[dataAddr+flags]&guestStopped == 0 {
		t.Error("the guest's clock does not say that it was stopped")
	}
}

// TestOnSignal checks that a signal other than a kick is reported and does not end Run.
func TestOnSignal(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, []byte{0xeb, 0xfe}) // jmp .
	var told atomic.Uint64
	c.OnSignal(func() { told.Add(1) })
	thread := syscall.Gettid()
	go func() {
		for told.Load() == 0 {
			_ = syscall.Tgkill(syscall.Getpid(), thread, syscall.SIGURG) // as the runtime does
			time.Sleep(time.Millisecond)
		}
		_ = c.Kick()
	}()
	g.next(c, ExitInterrupted)
	if told.Load() < 2 {
		t.Errorf("told of %d signals, want one that is no kick and a kick", told.Load())
	}
}
