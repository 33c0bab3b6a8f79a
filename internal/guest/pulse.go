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
		pulse, cancel := context.WithTimeout(ctx, limit)
		_, err := s.Pull(pulse, "/proc/version", io.Discard)
		stuck := err != nil && errors.Is(pulse.Err(), context.DeadlineExceeded)
		cancel()
		if stuck {
			return true
		}
	}
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
	tick := time.NewTicker(limit / 12)
	defer tick.Stop()
	last, since := g.vm.Progress(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := g.vm.Progress(); now != last {
			last, since = now, time.Now()
			continue
		}
		if time.Since(since) >= limit {
			g.vm.End(vmm.Result{Reason: vmm.Stalled, Detail: fmt.Sprintf("no exit and no output for %v", limit)})
			return
		}
	}
}
