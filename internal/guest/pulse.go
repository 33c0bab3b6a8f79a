package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmm"
)

const (
	// pulseInterval is how often an agent is asked whether it lives.
	pulseInterval = 10 * time.Second
	// pulseLimit is how long it may take to answer. Under emulation on a busy machine
	// seconds are ordinary, and so they are in a guest that forks without end.
	pulseLimit = time.Minute
)

// watchPulse returns true once the agent behind s does not answer, false when ctx ends.
func watchPulse(ctx context.Context, s *session.Session, interval, limit time.Duration) bool {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if !answers(ctx, s, limit) {
			return true
		}
	}
}

// errNoAnswer ends what an agent is asked.
var errNoAnswer = errors.New("the agent does not answer")

// answers reports whether the agent behind s answers within limit, as stalled counts it. An error is an answer, too.
func answers(ctx context.Context, s *session.Session, limit time.Duration) bool {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		if stalled(ctx, limit/stallTicks, func() uint64 { return 0 }) {
			end(errNoAnswer)
		}
	}()
	_, err := s.Pull(ctx, "/proc/version", io.Discard)
	return err == nil || !errors.Is(context.Cause(ctx), errNoAnswer)
}

// watchAgent returns what became of a guest whose agent, behind s, does not answer any more: with its interrupts off a guest can't
// even panic. It returns nil when ctx or the session ends.
func watchAgent(ctx context.Context, s *session.Session, limit time.Duration) *vmm.Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-s.Done():
		case <-ctx.Done():
		}
	}()
	if !watchPulse(ctx, s, pulseInterval, limit) {
		return nil
	}
	return &vmm.Result{Reason: vmm.Hung, Detail: fmt.Sprintf("its agent did not answer for %v", limit)}
}

// nestedFactor is how much longer than on a host things may take where two machines wait for one processor.
const nestedFactor = 3

// watch ends a guest that hangs. It returns with ctx and with the session.
func (g *Guest) watch(ctx context.Context, s *session.Session) {
	limit := pulseLimit
	if Nested() {
		limit *= nestedFactor
	}
	if hung := watchAgent(ctx, s, limit); hung != nil {
		g.vm.End(*hung)
	}
}

// stallLimit is how long a boot may go on without an exit or a character on the console. The longest silence of a
// kernel's boot is when it sets up the memory of a large guest.
const stallLimit = time.Minute

// watchBoot ends a guest whose boot makes no progress, until ctx ends.
func (g *Guest) watchBoot(ctx context.Context) {
	limit := stallLimit
	if Nested() {
		limit *= nestedFactor
	}
	if stalled(ctx, limit/stallTicks, g.vm.Progress) {
		g.vm.End(vmm.Result{Reason: vmm.Stalled, Detail: fmt.Sprintf("no exit and no output for %v", limit)})
	}
}

// stallTicks is how often progress is looked at while there is none.
const stallTicks = 12

// stalled returns true once progress was the same for stallTicks intervals, false when ctx ends. Intervals are counted, because time also goes
// on while this process is stopped, and its guest with it.
func stalled(ctx context.Context, interval time.Duration, progress func() uint64) bool {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last, idle := progress(), 0
	for idle < stallTicks {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		idle++
		if now := progress(); now != last {
			last, idle = now, 0
		}
	}
	return true
}
