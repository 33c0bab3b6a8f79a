package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stile-vmm/stile/vmm"
)

const (
	// powerOffGrace is how long an orderly power-off may take in which the guest writes nothing to its disks.
	powerOffGrace = 20 * time.Second
	// powerOffLimit is how long it may take in all, whatever the guest says.
	powerOffLimit = 30 * time.Minute
)

// errStaysOn says that a guest was stopped before it was off.
var errStaysOn = errors.New("the guest did not power off in order")

// agentSession is what a power-off needs of a *session.Session.
type agentSession interface {
	PowerOff(context.Context) error
	Pull(context.Context, string, io.Writer) (fs.FileMode, error)
}

// powerOff asks the agent behind s to power its guest off, and returns when ended is closed. It gives up with an error wrapping errStaysOn
// when nothing was written for the time of grace, or with the error of ctx.
func powerOff(ctx context.Context, s agentSession, ended <-chan struct{}, grace time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, powerOffLimit, fmt.Errorf("%w within %v", errStaysOn, powerOffLimit))
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go func() {
		written := writtenPages{session: s}
		if stalled(ctx, grace/stallTicks, func() uint64 { return written.read(ctx, grace/stallTicks) }) {
			giveUp(fmt.Errorf("%w, and wrote nothing for %v", errStaysOn, grace))
		}
	}()
	if err := s.PowerOff(ctx); err != nil {
		return cause(ctx, err)
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// writtenPages asks a guest how many pages its kernel has written to disks, which changes while a power-off makes progress.
type writtenPages struct {
	session agentSession
	last    uint64
}

// vmstatLimit bounds what is taken of the guest's answer, in bytes.
const vmstatLimit = 64 << 10

// read returns the last known number where there is no answer within limit.
func (w *writtenPages) read(ctx context.Context, limit time.Duration) uint64 {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var text bounded
	if _, err := w.session.Pull(ctx, "/proc/vmstat", &text); err == nil {
		w.last = parseWritten(text.String())
	}
	return w.last
}

// bounded is a buffer that refuses more than vmstatLimit bytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > vmstatLimit {
		return 0, io.ErrShortWrite
	}
	return b.Buffer.Write(p)
}

// parseWritten returns nr_written of /proc/vmstat, or 0 if the text does not have it.
func parseWritten(text string) uint64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "nr_written "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// grace is how long this guest may do nothing while it powers off.
func (s Spec) grace() time.Duration {
	if Nested() {
		return powerOffGrace * nestedFactor
	}
	return powerOffGrace
}

// lost returns what to say of a guest that stayed on for err: nil where nothing of it was to stay.
func (s Spec) lost(err error) error {
	if err == nil || !errors.Is(err, errStaysOn) || !s.writesDisks() {
		return nil
	}
	return fmt.Errorf("%w: it was stopped as by a power cut, and what it had not written to its disks is lost; call sync in the guest to wait for a slow disk", err)
}

// writesDisks reports whether the guest can change an image of the host.
func (s Spec) writesDisks() bool {
	return slices.ContainsFunc(s.Disks, vmm.Disk.Writes)
}
