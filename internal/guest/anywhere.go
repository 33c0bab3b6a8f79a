package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

// Anywhere says where Start boots a guest, and who hears of it. The zero value chooses the place.
type Anywhere struct {
	// On is auto, host or lab, as Choose has it.
	On string
	// Lab is the nested host, where it is one. Its topology is the one with all devices where the guest
	// gets some and no topology is named.
	Lab LabSpec
	// Progress gets a line when something takes long.
	Progress io.Writer
	// Notice gets the reason why auto runs guests on this host although its KVM could not be
	// measured, at each Start; nil if nobody is to hear it.
	Notice func(text string)
}

// UnavailableError says that no VM can run here, with the reason.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Running is a guest on this host or in the lab. Its methods may be called concurrently.
type Running struct {
	session func() *session.Session
	control *Control
	keeps   bool
	explain func(error) error
	close   func() error
	phases  func() []PhaseTime
	faults  func() []vmm.Report
	fault   func() error
}

// Start boots s where o says and returns when its agent is ready for commands. ctx bounds the start only; the
// caller closes the guest. An *UnavailableError says that this machine can run none.
func Start(ctx context.Context, s Spec, o Anywhere) (*Running, error) {
	if err := errors.Join(s.Validate(), s.ValidateAgent(), CheckPlace(o.On)); err != nil {
		return nil, err
	}
	place, notice, err := Choose(o.On)
	if err != nil {
		return nil, &UnavailableError{err}
	}
	start := startInLab
	if place == OnHost {
		if notice != "" && o.Notice != nil {
			o.Notice(notice)
		}
		start = startHere
	}
	r, err := start(ctx, s, o)
	return r, ExplainFull(err)
}

func startHere(ctx context.Context, s Spec, o Anywhere) (*Running, error) {
	g, err := Boot(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	return &Running{
		session: g.Session, control: g.control, keeps: g.spec.keeps(), explain: g.WaitError,
		close:  func() error { _, err := g.Close(); return err },
		phases: func() []PhaseTime { return Times(g.marks) },
		faults: func() []vmm.Report { reports, _ := g.vm.Reports(); return reports },
		fault:  g.Fault,
	}, nil
}

// LabRoom is how long the nested host may take besides a guest's own boot: its state may have
// to be built.
const LabRoom = 10 * time.Minute

func startInLab(ctx context.Context, s Spec, o Anywhere) (*Running, error) {
	s, err := s.Absolute()
	if err != nil {
		return nil, err
	}
	if o.Lab.Topology == "" && len(s.Devices) > 0 {
		o.Lab.Topology = lab.AllTopology
	}
	ctx, cancel := context.WithTimeout(ctx, LabRoom+s.withDefaults().BootTimeout)
	defer cancel()
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	c, err := NewControl(s, InLab, kill)
	if err != nil {
		return nil, err
	}
	r, err := bootInLab(ctx, s, o, c)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return r, nil
}

func bootInLab(ctx context.Context, s Spec, o Anywhere, c *Control) (*Running, error) {
	host, err := ResumeLab(ctx, s, o.Lab, o.Progress)
	if lacks := (*NoQEMUError)(nil); errors.As(err, &lacks) {
		return nil, &UnavailableError{err}
	}
	if err != nil {
		return nil, err
	}
	g, err := host.boot(ctx, s, c)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return &Running{
		session: g.Session, control: c, keeps: g.spec.keeps(), explain: g.WaitError, phases: host.Times, faults: g.faults.reports,
		fault: func() error { return g.faults.fault(s) },
		close: func() error { return errors.Join(g.Close(), host.Close(), c.Close()) },
	}, nil
}

// Session returns the connection to the guest's agent.
func (r *Running) Session() *session.Session { return r.session() }

// KernelLog returns the last lines of the guest's kernel log.
func (r *Running) KernelLog() []byte { return r.control.console.Lines(tailLines) }

// LogPath returns the path of the kernel's whole log, as far as it is kept; "" where it is not.
func (r *Running) LogPath() string { return r.control.LogPath() }

// Keeps reports whether the guest has something that outlives it, a device or a disk of this host, which others get once it
// was closed.
func (r *Running) Keeps() bool { return r.keeps }

// Explain turns the error of something that was done in the guest into the reason why the guest ended, if
// its agent was lost.
func (r *Running) Explain(err error) error { return r.explain(err) }

// Phases returns what the start took: in the lab the steps of the nested host's resume with their lengths, on
// this host the points of the boot.
func (r *Running) Phases() []PhaseTime { return r.phases() }

// Faults returns what the guest's kernel has reported of its faults so far, a bounded number.
func (r *Running) Faults() []vmm.Report { return r.faults() }

// Fault returns an error if the guest's kernel has reported a fault that ends the guest, whatever else did. It is to be asked once
// the guest was closed.
func (r *Running) Fault() error { return r.fault() }

// Close ends the guest, in order where it must be.
func (r *Running) Close() error { return r.close() }

// LabDiedError says that a guest in the nested host ended before its command did.
type LabDiedError struct{ Reason string }

func (e *LabDiedError) Error() string { return e.Reason }

// WaitError turns an error of a command's Wait into the reason why the guest ended, if the agent was lost.
func (g *LabGuest) WaitError(err error) error {
	if !errors.Is(err, session.ErrAgentLost) {
		return err
	}
	select {
	case <-g.ended:
	case <-time.After(diedGrace * nestedFactor):
		return fmt.Errorf("%w, %w%s", err, errRunsOn, lostAdvice)
	}
	if ended := g.control.Ended(); ended != nil {
		return ended
	}
	if died := (*DiedError)(nil); errors.As(g.runErr, &died) {
		return died
	}
	if reason := g.lastWords(); reason != "" {
		return &LabDiedError{reason}
	}
	if g.itself != nil {
		return g.itself
	}
	return errors.Join(err, g.runErr)
}

// lastWords returns what the guest's worker said last, which comes behind the kernel's log.
func (g *LabGuest) lastWords() string {
	const mark = "stile: "
	log := string(g.KernelLog())
	at := strings.LastIndex("\n"+log, "\n"+mark)
	if at < 0 {
		return ""
	}
	return log[at+len(mark):]
}
