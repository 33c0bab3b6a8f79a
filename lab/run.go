package lab

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

// Self is the path, in the nested host, of the binary that its agent runs: Image.Agent.
// It is in memory there.
const Self = "/proc/1/exe"

// Program is a path, in the nested host, of the same binary under the name of the command.
const Program = "/run/stile/bin/stile"

// Status says how a command ended.
type Status = session.Status

// Options are a command to run in a nested host of its own.
type Options struct {
	Config

	// Args is the command and its arguments; Self is this program.
	Args []string
	// Env is the command's environment, as KEY=VALUE.
	Env []string
	// Dir is the working directory: the host's folders are there by the same names.
	Dir string

	// Stdin, Stdout and Stderr are the command's, /dev/null when nil.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal of this size; Stderr stays unused.
	TTY *agentproto.Winsize

	// Linger says how long the output may take whose readers stand still once the command has ended like that; 0 is for ever. nil
	// is for ever, too. After a signal was passed on it is a second.
	Linger func(Status) time.Duration

	// Signals are forwarded to the command while it runs.
	Signals <-chan syscall.Signal
	// Sizes are the terminal's changes of size.
	Sizes <-chan agentproto.Winsize
}

// Run resumes a nested host, runs one command in it and ends it. The error is nil whatever the
// command's status. When ctx ends, the command is killed.
func Run(ctx context.Context, o *Options) (Status, error) {
	h, err := Resume(ctx, &o.Config)
	if err != nil {
		return Status{}, err
	}
	defer h.Close()
	return h.Run(ctx, o)
}

// Run runs one command. Options.Config is not looked at.
func (h *Host) Run(ctx context.Context, o *Options) (Status, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	p, err := h.session.Start(ctx, &session.Cmd{
		Args: o.Args, Env: o.Env, Dir: o.Dir, TTY: o.TTY,
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
	})
	if err != nil {
		return Status{}, h.explain(ctx, err)
	}
	signalled := make(chan struct{})
	go forward(p, o.Signals, o.Sizes, sync.OnceFunc(func() { close(signalled) }))
	go linger(p, o.Linger, signalled, func() { end(errLingers) })
	status, err := p.Wait()
	if errors.Is(err, errLingers) {
		return status, nil // but for output that nobody wanted
	}
	return status, h.explain(ctx, err)
}

// errLingers ends the wait for a reader.
var errLingers = errors.New("the readers of the output stand still")

// signalLinger is how long a reader that stands still holds up the end that a signal has asked for.
const signalLinger = time.Second

// linger calls give up where the command has ended and its output is not taken for long.
func linger(p *session.Process, long func(Status) time.Duration, signalled <-chan struct{}, giveUp func()) {
	select {
	case <-p.Done():
		return
	case <-p.Exited():
	}
	var limit <-chan time.Time // never, if nil
	if long != nil {
		if d := long(p.Known()); d > 0 {
			limit = time.After(d)
		}
	}
	select {
	case <-p.Done():
		return
	case <-signalled:
		limit = time.After(signalLinger)
	case <-limit:
		giveUp()
		return
	}
	select {
	case <-p.Done():
	case <-limit:
		giveUp()
	}
}

// explain says why QEMU has ended where that is what ended the command.
func (h *Host) explain(ctx context.Context, err error) error {
	if errors.Is(err, session.ErrAgentLost) {
		return h.proc.explain(ctx, err)
	}
	return err
}

// forward passes on signals and sizes until the command ends.
func forward(p *session.Process, signals <-chan syscall.Signal, sizes <-chan agentproto.Winsize, signalled func()) {
	for {
		select {
		case <-p.Done():
			return
		case sig, open := <-signals:
			if !open {
				signals = nil
				continue
			}
			signalled()
			_ = p.Signal(sig) // fails when the agent is lost, which Wait reports
		case size, open := <-sizes:
			if !open {
				sizes = nil
				continue
			}
			_ = p.Resize(size)
		}
	}
}
