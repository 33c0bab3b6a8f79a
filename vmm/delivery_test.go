package vmm

import (
	"errors"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
	"github.com/stile-vmm/stile/kvm"
)

// step is an exit that a made-up vCPU plays back, with the state that the vCPU is then in.
type step struct {
	reason   uint32
	suberror uint32
	rip      uint64
	events   kvm.VCPUEvents
}

var (
	// what KVM says of a doorbell: GPA, #NPF, its error code, GPA, the host's CPU
	deliveryData = [16]uint64{0x100013000, 0x400, 0x100000006, 0x100013000, 0}
	injected     = kvm.VCPUEvents{E: uapi.EventException{Inject: 1, Nr: 14}}
	injectedIRQ  = kvm.VCPUEvents{I: uapi.EventInterrupt{Inject: 1, Nr: 0x20}}
	injectedNMI  = kvm.VCPUEvents{N: uapi.EventNMI{Inject: 1}}
	pendingNMI   = kvm.VCPUEvents{N: uapi.EventNMI{Pending: 1}}
)

// refused is KVM refusing the access at rip.
func refused(rip uint64, events kvm.VCPUEvents) step {
	return step{uint32(kvm.ExitInternalError), uapi.InternalErrorDeliveryEv, rip, events}
}

// player is a vCPU that plays exits back; after them the guest shuts down.
type player struct {
	steps    []step
	at       step
	runs     int
	noEvents error
}

func (p *player) ID() int            { return 3 }
func (p *player) Kick() error        { return nil }
func (p *player) MarkStopped() error { return nil }
func (p *player) Describe() string   { return "where it is" }

func (p *player) Regs() (*kvm.Regs, error)         { return &kvm.Regs{RIP: p.at.rip}, nil }
func (p *player) Events() (*kvm.VCPUEvents, error) { return &p.at.events, p.noEvents }

func (p *player) Run() (kvm.Exit, error) {
	p.at = step{reason: uint32(kvm.ExitShutdown)}
	if p.runs < len(p.steps) {
		p.at = p.steps[p.runs]
	}
	p.runs++
	run := &uapi.Run{ExitReason: p.at.reason}
	if p.at.reason == uint32(kvm.ExitInternalError) {
		run.Exit[0] = uint64(p.at.suberror) | 5<<32
		copy(run.Exit[1:], deliveryData[:])
	}
	return kvm.NewExit(run), nil
}

// TestSpuriousDelivery checks that the guest goes on after a spurious error of KVM, and that a true one ends it.
func TestSpuriousDelivery(t *testing.T) {
	again, hlt := refused(0x1000, kvm.VCPUEvents{}), step{reason: uint32(kvm.ExitHLT)}
	many := func(n int, s step) (steps []step) {
		for range n {
			steps = append(steps, s)
		}
		return steps
	}
	var moving []step
	for i := range 20 {
		moving = append(moving, refused(0x1000+uint64(i), kvm.VCPUEvents{}))
	}
	for name, test := range map[string]struct {
		steps    []step
		noEvents error
		repeats  uint64
		runs     int
		want     Reason
	}{
		"spurious":                 {[]step{again}, nil, 1, 2, TripleFault},
		"an NMI came meanwhile":    {[]step{refused(0x1000, pendingNMI)}, nil, 1, 2, TripleFault},
		"at other instructions":    {moving, nil, 20, 21, TripleFault},
		"with accesses between":    {[]step{again, again, again, again, hlt, again, again, again, again}, nil, 8, 10, TripleFault},
		"four in a row":            {many(4, again), nil, 4, 5, TripleFault},
		"for ever":                 {many(100, again), nil, 4, 5, Failed},
		"of an exception":          {many(2, refused(0x1000, injected)), nil, 0, 1, Failed},
		"of an interrupt":          {many(2, refused(0x1000, injectedIRQ)), nil, 0, 1, Failed},
		"of an NMI":                {many(2, refused(0x1000, injectedNMI)), nil, 0, 1, Failed},
		"true after a spurious":    {[]step{again, refused(0x1000, injected)}, nil, 1, 2, Failed},
		"KVM doesn't say":          {[]step{again}, errors.New("no events"), 0, 1, Failed},
		"an error of another kind": {[]step{{uint32(kvm.ExitInternalError), uapi.InternalErrorSimulEx, 0x1000, kvm.VCPUEvents{}}}, nil, 0, 1, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			p := &player{steps: test.steps, noEvents: test.noEvents}
			var got Result
			c := &cpu{loop: p, ports: new(bus.Bus), mem: new(bus.Bus), end: func(r Result) { got = r },
				stop: func() bool { return false }, reset: func() bool { return false }, stops: newStops(nil)}
			c.run()
			if got.Reason != test.want || p.runs != test.runs {
				t.Errorf("%d runs, then %v; want %d and %s", p.runs, got, test.runs, test.want)
			}
			if test.want == Failed && (!strings.Contains(got.Detail, "vCPU 3: KVM internal error: ") || !strings.Contains(got.Detail, "where it is")) {
				t.Errorf("it says %q", got.Detail)
			}
			v := &VM{vm: new(kvm.VM), cpus: []*cpu{c, {}}, stops: c.stops}
			if n := v.Stats().SpuriousErrors; n != test.repeats {
				t.Errorf("%d spurious errors counted, want %d", n, test.repeats)
			}
		})
	}
}
