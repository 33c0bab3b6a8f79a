package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmm"
)

// Reboots reports whether a guest of s is booted again when it resets itself.
func (s Spec) Reboots() bool { return vmm.RebootPolicy(s.OnReboot) == vmm.RebootReset }

var errEarlyReset = errors.New("the guest reset itself before its agent was ready")

// rebooting ends the session with a guest that has reset itself. It is called by the VM, in which
// nothing runs.
func (g *Guest) rebooting() error {
	if !g.ready.Swap(false) {
		return errEarlyReset
	}
	g.session.Load().Close()
	return nil
}

// rebootDone lets AwaitReboot talk to the agent of the guest that boots again: its port is open by now.
func (g *Guest) rebootDone() {
	g.rebooted <- struct{}{} // there is room: nobody was ready since the last one was taken
}

// rebootGrace is how long a guest that was asked to reset itself, or whose agent is lost, may take
// until it does.
const rebootGrace = 60 * time.Second

// AwaitReboot waits until the guest has reset itself and its agent is ready again, with a new
// Session. It is for a Spec whose OnReboot is RebootReset, and not to be called concurrently.
func (g *Guest) AwaitReboot(ctx context.Context) error {
	grace := time.NewTimer(rebootGrace)
	defer grace.Stop()
	select {
	case <-g.rebooted:
		return g.connect(ctx)
	case <-g.ran:
		return &DiedError{g.result}
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-grace.C:
		return fmt.Errorf("%w, %w and was not reset", session.ErrAgentLost, errRunsOn)
	}
}
