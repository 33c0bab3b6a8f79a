package vmtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/session"
)

// Cmd is a command in a VM, used like an exec.Cmd: set its fields, then Run it, or Start
// and Wait. It is used once. Its fields may not be changed, and its methods but Signal not be called
// concurrently, after Start.
type Cmd struct {
	Path   string   // the program: a path in the guest, or a name to be looked for in PATH
	Args   []string // Args[0] is the name that the program is called by
	Env    []string // added to the VM's environment, as KEY=VALUE
	Dir    string   // in the guest; the test's own folder in a view of the host's root, else /
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Cancel is called when the command's context ends while it runs; nil kills the command's process group. It may send a
	// signal that the command can answer.
	Cancel func() error
	// WaitDelay is how long the command may go on after Cancel, before it is killed; 0 is as long as it likes. After a
	// kill, it is how long the guest may take to say that the command has ended; 0 is five seconds.
	WaitDelay time.Duration

	// ProcessState is set by Wait, once the command has ended.
	ProcessState *ProcessState

	vm      *VM
	ctx     context.Context
	started bool
	waited  bool
	process *session.Process
	giveUp  context.CancelCauseFunc // kills the command
	watched chan error              // what Cancel said, or nil if it was not called; closed

	theirs []io.Closer // ends of pipes that the command has, closed when it has ended
	ours   []io.Closer // ends that the caller has, closed by Wait
}

// Command returns a command to be run in the VM: no shell is involved. When ctx ends, it
// is killed. The guest's root runs it; a name without a slash is looked for in the guest's PATH.
func (vm *VM) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: append([]string{name}, args...), Dir: vm.dir, vm: vm, ctx: ctx}
}

// ProcessState says how a command ended. Unlike os.ProcessState's, ExitCode is 128+n for signal n, as a shell
// reports it.
type ProcessState struct {
	session.Status
	pid int
}

// Pid returns the command's process number in the guest.
func (p *ProcessState) Pid() int { return p.pid }

// Exited reports whether the command ended by itself, and not by a signal.
func (p *ProcessState) Exited() bool { return p.Signal == 0 }

// Success reports whether the command ended with status 0.
func (p *ProcessState) Success() bool { return p.ExitCode() == 0 }

// ExitError says that a command ended with another status than 0, or by a signal. It wraps
// the context's error where that is why the command was ended.
type ExitError struct {
	*ProcessState
	// Stderr is the command's standard error, if it was collected by Output.
	Stderr []byte

	cause error
}

func (e *ExitError) Error() string {
	if e.cause != nil {
		return e.ProcessState.String() + ": " + e.cause.Error()
	}
	return e.ProcessState.String()
}

// Unwrap returns why the command was ended from here, nil if it was not.
func (e *ExitError) Unwrap() error { return e.cause }

// StartError says that a command could not be started in the guest: its ExitCode is 127 for a command
// that was not found, 126 for one that can't be executed.
type StartError = session.StartError

// Errors of wrong use, which compare with errors.Is.
var (
	ErrStarted    = errors.New("vmtest: command already started")
	ErrNotStarted = errors.New("vmtest: command not started")
	ErrWaited     = errors.New("vmtest: Wait was already called")
)

// Start starts the command and does not wait for its end. Wait must follow if it succeeds.
func (c *Cmd) Start() error {
	if c.started {
		return ErrStarted
	}
	c.started = true
	err := c.vm.present()
	var p *session.Process
	if err == nil {
		p, err = c.start()
	}
	if err != nil {
		closeAll(c.theirs)
		closeAll(c.ours)
		return c.vm.explain(err)
	}
	c.process = p
	c.watched = make(chan error, 1)
	go c.watch()
	return nil
}

// args returns the command's arguments, which may have been left out.
func (c *Cmd) args() []string {
	if len(c.Args) == 0 {
		return []string{c.Path}
	}
	return c.Args
}

// contextError returns why ctx has ended: an error in which errors.Is finds both its cause and its error.
func contextError(ctx context.Context) error {
	cause, err := context.Cause(ctx), ctx.Err()
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return &causeError{cause, err}
}

// causeError is a context's cause that is also the context's error.
type causeError struct{ cause, err error }

func (e *causeError) Error() string   { return e.cause.Error() }
func (e *causeError) Unwrap() []error { return []error{e.cause, e.err} }

// start bounds the start by the command's context, and the running command by what watch decides.
func (c *Cmd) start() (*session.Process, error) {
	inner, giveUp := context.WithCancelCause(context.WithoutCancel(c.ctx))
	c.giveUp = giveUp
	stop := context.AfterFunc(c.ctx, func() { giveUp(contextError(c.ctx)) })
	p, err := c.vm.session.Start(inner, &session.Cmd{
		Path: c.Path, Args: c.args(), Env: append(slices.Clone(c.vm.env), c.Env...), Dir: c.Dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		WaitDelay: c.WaitDelay,
	})
	stop()
	if err != nil {
		giveUp(nil)
	}
	return p, err
}

// watch waits for the command's end and for its context's.
func (c *Cmd) watch() {
	defer close(c.watched)
	select {
	case <-c.process.Done():
	case <-c.ctx.Done():
		c.watched <- c.cancel()
		<-c.process.Done()
	}
	c.giveUp(nil) // frees the context
	closeAll(c.theirs)
}

// cancel ends the command, by Cancel and WaitDelay if there are some.
func (c *Cmd) cancel() error {
	cause := contextError(c.ctx)
	if c.Cancel == nil {
		c.giveUp(cause)
		return cause
	}
	switch err := c.Cancel(); {
	case errors.Is(err, os.ErrProcessDone):
		cause = nil // it has ended by itself
	case err != nil:
		cause = fmt.Errorf("vmtest: canceling the command: %w", err)
	}
	if c.WaitDelay == 0 {
		return cause
	}
	timer := time.NewTimer(c.WaitDelay)
	defer timer.Stop()
	select {
	case <-c.process.Done():
	case <-timer.C:
		c.giveUp(cause)
	}
	return cause
}

// Wait waits for the end of the command and of its output. The error is an *ExitError if
// its status is not 0. Where the context has ended, errors.Is finds its error in what Wait returns, also if the
// command ended with status 0 then. A guest that died is an error that says why.
func (c *Cmd) Wait() error {
	switch {
	case c.process == nil:
		return ErrNotStarted
	case c.waited:
		return ErrWaited
	}
	c.waited = true
	select { // as os/exec does: what was not read from its pipes by now is lost
	case <-c.process.Exited():
	case <-c.process.Done():
	}
	closeAll(c.ours)
	status, err := c.process.Wait()
	cause := <-c.watched
	var stream *session.StreamError
	if errors.As(err, &stream) {
		if err = stream.Err; len(c.ours) > 0 && errors.Is(err, io.ErrClosedPipe) {
			err = nil // the caller did not want all of the output
		}
		return c.ended(status, cause, err)
	}
	if err != nil && (cause == nil || !errors.Is(err, cause)) {
		return c.vm.explain(err)
	}
	if err != nil && status == (session.Status{}) {
		return err // killed, and the guest never said that it was
	}
	return c.ended(status, cause, nil)
}

// ended sets ProcessState, and returns what Wait does for a command that has ended: its status goes before what has canceled it, and
// that before an error of a standard stream.
func (c *Cmd) ended(status session.Status, cause, stream error) error {
	c.ProcessState = &ProcessState{status, c.process.PID()}
	if !c.ProcessState.Success() {
		return &ExitError{ProcessState: c.ProcessState, cause: cause}
	}
	return cmp.Or(cause, stream)
}

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. An *ExitError has its standard
// error, unless Stderr is set.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("vmtest: Stdout already set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and error together.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("vmtest: Stdout or Stderr already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Signal sends a signal, a syscall.Signal, to the command's process group. It must have been started; os.ErrProcessDone says that it
// has ended.
func (c *Cmd) Signal(sig os.Signal) error {
	if c.process == nil {
		return ErrNotStarted
	}
	number, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("vmtest: signal %v: %w", sig, errors.ErrUnsupported)
	}
	select {
	case <-c.process.Exited():
		return os.ErrProcessDone
	case <-c.process.Done():
		return os.ErrProcessDone
	default:
	}
	return c.process.Signal(number)
}

// Kill sends SIGKILL to the command's process group. See Signal.
func (c *Cmd) Kill() error { return c.Signal(syscall.SIGKILL) }

// Pid returns the command's process number in the guest, 0 before Start.
func (c *Cmd) Pid() int {
	if c.process == nil {
		return 0
	}
	return c.process.PID()
}

// ExitCode returns the status of a command that has ended as a shell reports it: 128+n for
// signal n. It is -1 where that is not known.
func (c *Cmd) ExitCode() int {
	if c.ProcessState == nil {
		return -1
	}
	return c.ProcessState.ExitCode()
}

// String returns the command and its arguments, for people.
func (c *Cmd) String() string {
	var b bytes.Buffer
	for i, arg := range c.args() {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(arg)
	}
	return b.String()
}
