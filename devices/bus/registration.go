package bus

import "sync/atomic"

// gone is the bit of a registration's count that says it takes no more calls.
const gone = 1 << 62

// Registration is a region's place on the bus. There are two ways to end it, and which
// one is right depends on what follows:
//
//   - Detach, when the handler lives on, as when a BAR moves or its decoding is switched
//     off. It returns at once. It is safe anywhere, also inside a handler of this very
//     region (some devices mirror their config space in a BAR), and when two vCPUs each
//     move what the other is in.
//   - Remove, when the handler is about to be freed. It waits until nobody is in the
//     handler, because a vCPU may have looked the region up just before and be in it
//     still. Called from within a handler of the region it would wait for itself, so
//     that is not allowed.
type Registration struct {
	bus     *Bus
	name    string
	start   uint64
	last    uint64 // inclusive, so that a region may end at the top of the address space
	handler Handler

	calls atomic.Int64 // calls in flight, and gone
	hits  atomic.Uint64
	idle  chan struct{}
}

// Detach takes the region off the bus: no call begins after it returns. Calls in flight
// go on. Further calls do nothing.
func (r *Registration) Detach() {
	r.bus.remove(r)
	for {
		n := r.calls.Load()
		if n&gone != 0 {
			return
		}
		if !r.calls.CompareAndSwap(n, n|gone) {
			continue
		}
		if n == 0 {
			close(r.idle)
		}
		return
	}
}

// Remove detaches the region and waits for the calls in flight.
func (r *Registration) Remove() {
	r.Detach()
	<-r.idle
}

// Busy reports whether calls are in flight. Once it is false after Detach, it stays so.
func (r *Registration) Busy() bool { return r.calls.Load()&^gone != 0 }

// enter counts a call in. It fails once the region is detached.
func (r *Registration) enter() bool {
	for {
		n := r.calls.Load()
		if n&gone != 0 {
			return false
		}
		if r.calls.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (r *Registration) leave() {
	if r.calls.Add(-1) == gone {
		close(r.idle)
	}
}
