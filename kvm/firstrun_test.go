package kvm

import (
	"errors"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// spoiltKVM is a KVM that never runs a VM whose first KVM_RUN could have met a signal, as some
// kernels' does. The entries that it lets pass go to the real one.
type spoiltKVM struct {
	linux
	mu      sync.Mutex
	vms     map[*VM]error // what each returns
	refuses int           // so many VMs are spoilt whatever they do
}

func (k *spoiltKVM) enter(c *VCPU) error {
	if err := k.verdict(c.vm); err != nil {
		return err
	}
	return k.linux.enter(c)
}

func (k *spoiltKVM) verdict(vm *VM) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	verdict, known := k.vms[vm]
	if !known {
		verdict = k.first()
		k.vms[vm] = verdict
	}
	return verdict
}

// first decides about a VM by what its first KVM_RUN finds.
func (k *spoiltKVM) first() error {
	var set unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
		return err
	}
	const never = 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1)
	if k.refuses > 0 || set.Val[0]|never != ^uint64(0) {
		k.refuses--
		return syscall.ENOMEM
	}
	return nil
}

// newSpoilt returns a System of such a KVM.
func newSpoilt(t *testing.T, refuses int) (*System, *spoiltKVM) {
	s := newSystem(t)
	k := &spoiltKVM{vms: make(map[*VM]error), refuses: refuses}
	s.kernel = k
	return s, k
}

// TestFirstRunMeetsNoSignal: the first KVM_RUN has all signals blocked and runs no guest, whichever
// vCPU is first; later ones can be kicked.
func TestFirstRunMeetsNoSignal(t *testing.T) {
	s, _ := newSpoilt(t, 0)
	g := newGuestOn(t, s, true)
	boot, other := g.unbound(0), g.unbound(1)
	g.longMode(boot, spin)
	for _, r := range []*runner{g.start(other, nil), g.start(boot, nil)} {
		r.quiet() // a kick, which must come back
		r.quiet()
	}
}

func TestPrepareKeepsKick(t *testing.T) {
	s, _ := newSpoilt(t, 0)
	g := newGuestOn(t, s, false)
	c := g.vcpu(0)
	g.longMode(c, hlt)
	check(t, c.Kick())
	check(t, c.Prepare())
	check(t, c.Prepare())
	g.next(c, ExitInterrupted)
	g.next(c, ExitHLT)
}

func TestPrepareNeedsThread(t *testing.T) {
	g := newGuest(t, false)
	if err := g.unbound(0).Prepare(); err == nil {
		t.Error("prepared without a thread")
	}
}

// TestSpoiltVM checks that a VM which SIGSTOP spoilt is distinguished from other faults, and costs a measurement
// nothing but a second VM.
func TestSpoiltVM(t *testing.T) {
	s, _ := newSpoilt(t, 1)
	c := newGuestOn(t, s, false).vcpu(0)
	if _, err := c.Run(); !errors.Is(err, ErrFirstRun) || !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("got %v, want ErrFirstRun and ENOMEM", err)
	}
	s, k := newSpoilt(t, 1)
	_, err := s.MeasureSpeed()
	check(t, err)
	if len(k.vms) != 2 {
		t.Errorf("%d VMs, want 2", len(k.vms))
	}
	s, k = newSpoilt(t, 100)
	if _, err := s.MeasureSpeed(); !errors.Is(err, ErrFirstRun) || len(k.vms) != 2 {
		t.Errorf("%v after %d VMs, want ErrFirstRun after 2", err, len(k.vms))
	}
}
