package vmm

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/kreport"
)

const (
	// stopInterval is how often a running VM shows that its process runs.
	stopInterval = 2 * time.Second
	// stopLimit is the silence that counts as a stop of the process. Linux's shortest default limit for
	// a CPU that does nothing is 20 s.
	stopLimit = 5 * time.Second
	// stopExcuse is how long after a stop a guest's report of a lockup is put down to it. The detector
	// of a CPU that is really locked up reports again later.
	stopExcuse = 30 * time.Second
	// holdLimit is how long Hold waits for vCPUs that serve an exit.
	holdLimit = time.Second
)

// stops notices when this process did not run for a while, and holds vCPUs over a stop that is known
// in advance. Its methods may be called concurrently.
type stops struct {
	clock func() time.Duration // since the host has booted, its suspends included
	ended <-chan struct{}      // closed when the VM ends: nobody is held then

	parked  chan struct{} // has room for one: a vCPU has parked
	running atomic.Int64  // vCPUs in their loop
	waiting atomic.Int64  // of those, parked
	count   atomic.Uint64 // stops so far
	// gate is closed by the last release; nil while nobody is held.
	gate atomic.Pointer[chan struct{}]

	mu    sync.Mutex
	last  time.Duration // when the process was last seen running
	until time.Duration // when the last stop was noticed
	held  int           // calls of hold without release
}

func newStops(ended <-chan struct{}) *stops {
	return &stops{clock: sinceBoot, ended: ended, parked: make(chan struct{}, 1)}
}

// sinceBoot is a clock that also counts while the host is suspended. (clock_gettime(2))
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// start begins to watch: what was before is no stop.
func (s *stops) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = s.clock()
}

// look shows that the process runs, and returns how many stops there were.
func (s *stops) look() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if now-s.last > stopLimit {
		s.count.Add(1)
		s.until = now
	}
	s.last = now
	return s.count.Load()
}

// recent reports whether a stop has ended so lately that a guest may still complain about it.
func (s *stops) recent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count.Load() > 0 && s.clock()-s.until < stopExcuse
}

// hold makes vCPUs park from now on.
func (s *stops) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held++; s.held == 1 {
		gate := make(chan struct{})
		s.gate.Store(&gate)
	}
}

// release lets them go on. That they were held is a stop.
func (s *stops) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held--; s.held > 0 {
		return
	}
	s.count.Add(1)
	s.last = s.clock()
	s.until = s.last
	close(*s.gate.Swap(nil))
}

// park waits while vCPUs are held. Each vCPU calls it before it runs its guest.
func (s *stops) park() {
	gate := s.gate.Load()
	if gate == nil {
		return
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.parked <- struct{}{}:
	default:
	}
	select {
	case <-*gate:
	case <-s.ended:
	}
}

// settled waits until all vCPUs have parked, for holdLimit at most.
func (s *stops) settled() {
	limit := time.NewTimer(holdLimit)
	defer limit.Stop()
	for s.waiting.Load() < s.running.Load() {
		select {
		case <-s.parked:
		case <-s.ended:
			return
		case <-limit.C:
			return
		}
	}
}

// Hold stops the vCPUs until the returned function is called, for a process that is about to be stopped:
// the guest learns that it was stopped before it does anything else. It waits a second at most
// for those that serve an exit. It may be called at any time, also several times at once.
func (v *VM) Hold() (release func()) {
	v.stops.hold()
	v.kickAll()
	v.stops.settled()
	var once sync.Once
	return func() { once.Do(v.stops.release) }
}

// kickAll makes all vCPUs look around.
func (v *VM) kickAll() {
	for _, c := range v.cpus {
		_ = c.vcpu.Kick() // of one that has ended
	}
}

// watchStops notices that the process was stopped, until the VM ends. vCPUs that were in KVM_RUN
// notice it themselves, because the stop has interrupted them.
func (v *VM) watchStops() {
	tick := time.NewTicker(stopInterval)
	defer tick.Stop()
	for {
		before := v.stops.count.Load()
		select {
		case <-v.ended:
			return
		case <-tick.C:
		}
		if v.stops.look() != before {
			v.kickAll()
		}
	}
}

// excuses reports whether the guest's kernel complains of a stop of this process, and then notifies the user.
func (v *VM) excuses(r kreport.Report) bool {
	if r.Kind != kreport.Lockup || !v.stops.recent() {
		return false
	}
	v.console.telling.Go(func() {
		v.notice(fmt.Sprintf("the guest was stopped for a while, and its kernel takes that for a lockup (%s): it goes on", r.Text))
	})
	return true
}

// markStops tells the guest of stops that this vCPU has not told it of yet.
func (c *cpu) markStops(count uint64) {
	if count == c.stopsTold {
		return
	}
	c.stopsTold = count
	if err := c.loop.MarkStopped(); err != nil {
		c.fail(err)
	}
}
