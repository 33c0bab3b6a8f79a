package kvm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
)

// runner runs a vCPU on a goroutine of its own until stop.
type runner struct {
	g     *guest
	c     *VCPU
	outs  chan uint32   // what the guest wrote to testPort, zero-extended
	kicks chan struct{} // a value per ExitInterrupted
	done  chan error
	ends  atomic.Bool
	mmio  func(MMIO) // answers MMIO exits; nil makes them an error
}

func (g *guest) start(c *VCPU, mmio func(MMIO)) *runner {
	r := &runner{
		g: g, c: c, mmio: mmio,
		outs:  make(chan uint32, 1000),
		kicks: make(chan struct{}, 1000),
		done:  make(chan error, 1),
	}
	go func() { r.done <- r.run() }()
	g.t.Cleanup(r.stop)
	return r
}

func (r *runner) run() error {
	r.c.Bind()
	defer r.c.Unbind()
	for {
		exit, err := r.c.Run()
		if err != nil {
			return err
		}
		switch {
		case exit.Reason == ExitInterrupted && r.ends.Load():
			return nil
		case exit.Reason == ExitInterrupted:
			r.kicks <- struct{}{}
		case exit.Reason == ExitIO && exit.IO().Out:
			var b [4]byte
			copy(b[:], exit.IO().Data)
			r.outs <- binary.LittleEndian.Uint32(b[:])
		case exit.Reason == ExitMMIO && r.mmio != nil:
			r.mmio(exit.MMIO())
		default:
			return fmt.Errorf("exit: %v\n%s", exit, r.c.Describe())
		}
	}
}

// stop ends the runner; it must run before the vCPU is closed, as cleanups do.
func (r *runner) stop() {
	r.ends.Store(true)
	check(r.g.t, r.c.Kick())
	deadline := time.After(exitLimit)
	for {
		select {
		case <-r.outs: // the guest may be ahead of the test
		case <-r.kicks:
		case err := <-r.done:
			if err != nil {
				r.g.t.Error(err)
			}
			return
		case <-deadline:
			r.g.t.Fatal("the vCPU does not stop")
		}
	}
}

// out returns what the guest writes next.
func (r *runner) out() uint32 {
	r.g.t.Helper()
	select {
	case v := <-r.outs:
		return v
	case err := <-r.done:
		r.done <- nil
		r.g.t.Fatal(err)
	case <-time.After(exitLimit):
		r.g.t.Fatal("the guest writes nothing")
	}
	return 0
}

// wantOut fails the test unless the guest writes want next.
func (r *runner) wantOut(want uint32) {
	r.g.t.Helper()
	if got := r.out(); got != want {
		r.g.t.Fatalf("the guest wrote %#x, want %#x", got, want)
	}
}

// quiet fails the test if the guest has written anything by the time it is kicked: what
// was raised before has then been delivered or never will.
func (r *runner) quiet() {
	r.g.t.Helper()
	check(r.g.t, r.c.Kick())
	select {
	case <-r.kicks:
	case <-time.After(exitLimit):
		r.g.t.Fatal("the kick is lost")
	}
	select {
	case v := <-r.outs:
		r.g.t.Fatalf("the guest wrote %#x, want nothing", v)
	default:
	}
}
