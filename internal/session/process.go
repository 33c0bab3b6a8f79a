package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Status says how a command ended.
type Status struct {
	// Code is the exit status, when Signal is 0.
	Code int
	// Signal is the signal that killed the command, or 0.
	Signal syscall.Signal
	// CoreDumped says that the signal made the guest's kernel dump core.
	CoreDumped bool
}

// ExitCode returns what a shell would report: the exit status, or 128 plus the signal.
func (s Status) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// String returns "exit status 3" or "signal: killed".
func (s Status) String() string {
	switch {
	case s.Signal == 0:
		return fmt.Sprintf("exit status %d", s.Code)
	case s.CoreDumped:
		return fmt.Sprintf("signal: %v (core dumped)", s.Signal)
	}
	return fmt.Sprintf("signal: %v", s.Signal)
}

// Process is a command that runs in the guest. Its methods may be called concurrently.
type Process struct {
	session *Session
	pid     int
	stdio   map[agentproto.Stream]*yamux.Stream // not changed once open has returned
	input   *input                              // nil without; not changed once Start has returned

	controlMu sync.Mutex // held while a message is written
	control   *yamux.Stream

	exited          chan struct{} // closed once the agent has said how it ended and sent all its output, or won't
	ended           chan struct{} // closed once the agent has said how it ended, or won't
	told            Status        // what it has said; set before ended is closed
	telling, finish sync.Once
	done            chan struct{} // closed once status and err are set
	status          Status
	err             error
}

// PID returns the command's process number in the guest.
func (p *Process) PID() int { return p.pid }

// Wait waits for the command's end and returns how it ended. By then Stdout and Stderr
// have got all the output. The error is nil whatever the status, except when the agent is lost, Stdin's
// reader or a writer failed (a *StreamError) or the context ended; Status is then what is known. Wait may be called more than once.
func (p *Process) Wait() (Status, error) {
	<-p.done
	return p.status, p.err
}

// Done returns a channel that is closed when Wait won't block.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited returns a channel that is closed when the command has ended, though not all of its output may have been
// taken yet. Where it never is, Done's is.
func (p *Process) Exited() <-chan struct{} { return p.ended }

// Known returns how the command ended once Exited is closed, as far as that was told.
func (p *Process) Known() Status { return p.known() }

// Signal sends sig to the command's process group. A command that has ended gets none.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.send(&agentproto.Control{Signal: int(sig)})
}

// Kill sends SIGKILL.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Resize sets the size of the command's terminal.
func (p *Process) Resize(size agentproto.Winsize) error {
	return p.send(&agentproto.Control{Resize: &size})
}

func (p *Process) send(c *agentproto.Control) error {
	if err := c.Validate(); err != nil {
		return err
	}
	p.controlMu.Lock()
	defer p.controlMu.Unlock()
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := agentproto.WriteMessage(p.control, agentproto.MaxReply, c); err != nil {
		return fmt.Errorf("signal the guest's process %d: %w", p.pid, p.session.cause(context.Background(), err))
	}
	return nil
}

// open opens the streams, stdio first, and waits for the command's start.
func (p *Process) open(exec *agentproto.Exec) error {
	for _, name := range exec.Streams {
		stream, err := p.session.open(&agentproto.Request{Attach: &agentproto.Attach{ID: exec.ID, Stream: name}})
		if err != nil {
			return err
		}
		p.stdio[name] = stream
	}
	control, err := p.session.open(&agentproto.Request{Exec: exec})
	if err != nil {
		return err
	}
	p.control = control
	reply, err := agentproto.ReadReply(control)
	if err != nil {
		return p.session.cause(context.Background(), err)
	}
	if reply.Started == nil {
		return errors.New("the guest's agent did not say that the command runs")
	}
	p.pid = reply.Started.PID
	return nil
}

// release closes every stream. The agent kills a command whose control stream was closed.
func (p *Process) release() {
	p.session.drop(p.control)
	for _, stream := range p.stdio {
		p.session.drop(stream)
	}
}

// run starts the goroutines that serve the command. They end with the command, with
// the session, or, when the agent says nothing, WaitDelay after ctx.
func (p *Process) run(ctx context.Context, cmd *Cmd) {
	outputs := &outputs{exited: p.exited}
	if tty := p.stdio[agentproto.StreamTTY]; tty != nil {
		stdout := cmd.Stdout
		if stdout == nil {
			stdout = io.Discard
		}
		outputs.copy(agentproto.StreamTTY, stdout, tty)
		if cmd.Stdin != nil {
			go sendInput(tty, cmd.Stdin)
		}
	}
	if stream := p.stdio[agentproto.Stdin]; stream != nil {
		p.input = newInput(stream, cmd.Stdin)
		go p.input.send()
		go p.input.watch()
	}
	for name, w := range map[agentproto.Stream]io.Writer{
		agentproto.Output: cmd.Stdout, agentproto.Stdout: cmd.Stdout, agentproto.Stderr: cmd.Stderr,
	} {
		if stream := p.stdio[name]; stream != nil {
			outputs.copy(name, w, stream)
		}
	}
	go p.await(ctx, outputs)
	go p.watch(ctx, cmd.WaitDelay)
}

// await waits for the exit status and the rest of the output.
func (p *Process) await(ctx context.Context, outputs *outputs) {
	status, read, err := p.readExit(ctx)
	p.tell(status)
	close(p.exited)
	var inputErr error
	if p.input != nil && err == nil {
		inputErr = p.input.settle(read)
	}
	// What was written before the exit status is here: nothing more is waited for.
	for _, stream := range p.stdio {
		stream.SetReadDeadline(past())
	}
	if copyErr := outputs.wait(); err == nil {
		err = copyErr
	}
	if err == nil {
		err = inputErr
	}
	if err == nil && ctx.Err() != nil && status.Signal == syscall.SIGKILL {
		err = context.Cause(ctx)
	}
	p.end(status, err)
}

// readExit returns how the command ended, and how much it has read from its standard input.
func (p *Process) readExit(ctx context.Context) (Status, int64, error) {
	for {
		reply, err := agentproto.ReadReply(p.control)
		if err != nil {
			return Status{}, 0, p.session.cause(ctx, err)
		}
		if reply.Exit == nil {
			return Status{}, 0, errors.New("the guest's agent did not say how the command ended")
		}
		e := reply.Exit
		status := Status{Code: e.Code, Signal: syscall.Signal(e.Signal), CoreDumped: e.CoreDumped}
		if !e.Pending {
			return status, e.Read, nil
		}
		p.tell(status)
	}
}

// tell notes how the command ended. Only the first call does.
func (p *Process) tell(status Status) {
	p.telling.Do(func() {
		p.told = status
		close(p.ended)
	})
}

// watch kills the command when ctx ends, and gives it up when that does not help.
func (p *Process) watch(ctx context.Context, delay time.Duration) {
	select {
	case <-p.done:
		return
	case <-ctx.Done():
	}
	go p.Kill() // may block when the guest reads nothing
	if delay == 0 {
		delay = DefaultWaitDelay
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.end(p.known(), context.Cause(ctx))
	}
}

// known returns how the command ended, as far as that was told.
func (p *Process) known() Status {
	select {
	case <-p.ended:
		return p.told
	default:
		return Status{}
	}
}

// end records the outcome, once, and closes the streams.
func (p *Process) end(status Status, err error) {
	p.finish.Do(func() {
		p.status, p.err = status, err
		close(p.done)
		p.release()
	})
}
