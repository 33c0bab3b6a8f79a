package kvm

import (
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// jmp to itself
var spin = []byte{0xeb, 0xfe}

func TestKick(t *testing.T) {
	tests := map[string]struct {
		irqchip bool
		code    []byte
	}{
		"spin":         {false, spin},
		"spin irqchip": {true, spin},
		"halted":       {true, []byte{0xfa, 0xf4, 0xeb, 0xfd}}, // cli; hlt; jmp to hlt
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, test.irqchip)
			c := g.unbound(0)
			g.longMode(c, test.code)
			r := g.start(c, nil)
			for range 50 {
				r.quiet() // kicks, waits for the exit
			}
		})
	}
}

// TestKickWhereSignalsAreIgnored is about programs that call signal.Ignore, before a vCPU runs or while it does.
func TestKickWhereSignalsAreIgnored(t *testing.T) {
	g := newGuest(t, false)
	c := g.unbound(0)
	g.longMode(c, spin)
	signal.Ignore(kickSignal)
	r := g.start(c, nil)
	r.quiet()
	signal.Ignore(kickSignal)
	r.quiet()
	if signal.Ignored(kickSignal) {
		t.Error("the kick's signal is still ignored")
	}
}

func TestKickOfVCPUThatWaitsForINIT(t *testing.T) {
	g := newGuest(t, true)
	g.unbound(0)
	r := g.start(g.unbound(1), nil)
	r.quiet()
}

func TestKickBeforeRun(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, hlt)
	check(t, c.Kick())
	check(t, c.Kick())
	g.next(c, ExitInterrupted)
	g.next(c, ExitHLT)
	check(t, c.Kick())
	g.next(c, ExitInterrupted)
}

// TestKickCompletesIO checks that the answer to an IN is not lost to a kick.
func TestKickCompletesIO(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0xec, // in al, dx
		0xee, // out dx, al
		0xf4))
	io := g.next(c, ExitIO).IO()
	io.Data[0] = 0x77
	check(t, c.Kick())
	g.next(c, ExitInterrupted)
	if io := g.next(c, ExitIO).IO(); !io.Out || io.Data[0] != 0x77 {
		t.Errorf("got %+v, want OUT of 0x77", io)
	}
}

// TestNoKickIsLost lets kicks and Run race without waiting for each other: after each
// kick there must be an ExitInterrupted that saw it.
func TestNoKickIsLost(t *testing.T) {
	g := newGuest(t, false)
	c := g.unbound(0)
	g.longMode(c, code( // exits now and then, to race with Run's ends too
		0xb9, uint32(20), // mov ecx, 20
		0xff, 0xc9, // dec ecx
		0x75, 0xfc, // jnz to dec
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0xee,        // out dx, al
		0xeb, 0xee)) // jmp to start
	const rounds, burst = 200, 5
	var sent, seen atomic.Int64
	done := make(chan error, 1)
	go func() {
		c.Bind()
		defer c.Unbind()
		for {
			exit, err := c.Run()
			if err != nil {
				done <- err
				return
			}
			if exit.Reason != ExitInterrupted {
				continue
			}
			n := sent.Load()
			seen.Store(n)
			if n == rounds*burst {
				done <- nil
				return
			}
		}
	}()
	for range rounds {
		limit := time.Now().Add(exitLimit)
		for range burst {
			sent.Add(1)
			check(t, c.Kick())
		}
		for seen.Load() != sent.Load() {
			if time.Now().After(limit) {
				t.Fatalf("%d kicks sent, the last one seen is %d", sent.Load(), seen.Load())
			}
			runtime.Gosched()
		}
	}
	check(t, <-done)
}

// TestKickAgainstTakeKick races the two without KVM, and so far more often: a
// goroutine stands for KVM_RUN, which ends when immediate_exit is set.
func TestKickAgainstTakeKick(t *testing.T) {
	c := &VCPU{run: &uapi.Run{}}
	const kicks = 10_000
	var sent, seen atomic.Int64
	go func() {
		for seen.Load() != kicks {
			if c.immediateExit() && c.takeKick() {
				seen.Store(sent.Load())
			}
			runtime.Gosched()
		}
	}()
	for n := int64(1); n <= kicks; n++ {
		sent.Store(n)
		check(t, c.Kick())
		limit := time.Now().Add(exitLimit)
		for n%4 == 0 && seen.Load() != n { // between these, kicks meet a takeKick under way
			if time.Now().After(limit) {
				seen.Store(kicks)
				t.Fatalf("kick %d is lost", n)
			}
			runtime.Gosched()
		}
	}
}

// TestRuntimeSignalsDoNotEndRun has Go's runtime send its preemption signals.
func TestRuntimeSignalsDoNotEndRun(t *testing.T) {
	g := newGuest(t, false)
	c := g.unbound(0)
	g.longMode(c, spin)
	r := g.start(c, nil)
	for c.thread.Load() == 0 {
		runtime.Gosched()
	}
	for range 20 {
		runtime.GC()
		check(t, sendSignal(c))
		time.Sleep(time.Millisecond) // for the thread to act on it
	}
	select {
	case <-r.kicks:
		t.Error("Run ended without a kick")
	default:
	}
	r.quiet()
}

func TestKickAfterClose(t *testing.T) {
	g := newGuest(t, false)
	c := g.unbound(0)
	check(t, c.Close())
	check(t, c.Kick())
	check(t, c.Close())
}

func TestRunNeedsBind(t *testing.T) {
	g := newGuest(t, false)
	if exit, err := g.unbound(0).Run(); err == nil {
		t.Errorf("exit %v, want an error", exit)
	}
}

// sendSignal sends the signal of Kick without the rest of it.
func sendSignal(c *VCPU) error {
	return syscall.Tgkill(c.pid, int(c.thread.Load()), kickSignal)
}
