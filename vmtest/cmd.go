package vmtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/session"
)

// Cmd is a command in a VM, used like an exec.Cmd: set its fields, then Run it, or Start
// and Wait. It is used once. Its fields may not be changed, and its methods but Signal not be called
// concurrently, after Start.
type Cmd struct {
	Args   []string
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
	return &Cmd{Args: append([]string{name}, args...), Dir: vm.dir, vm: vm, ctx: ctx}
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

// start bounds the start by the command's context, and the running command by what watch decides.
func (c *Cmd) start() (*session.Process, error) {
	inner, giveUp := context.WithCancelCause(context.WithoutCancel(c.ctx))
	c.giveUp = giveUp
	stop := context.AfterFunc(c.ctx, func() { giveUp(context.Cause(c.ctx)) })
	p, err := c.vm.session.Start(inner, &session.Cmd{
		Args: c.Args, Env: append(slices.Clone(c.vm.env), c.Env...), Dir: c.Dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
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
	cause := context.Cause(c.ctx)
	if c.Cancel == nil {
		c.giveUp(cause)
		return cause
	}
	if err := c.Cancel(); err != nil {
		cause = err
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
	if len(c.ours) > 0 && errors.Is(err, io.ErrClosedPipe) {
		err = nil // the caller did not want all of the output
	}
	if err != nil && (cause == nil || !errors.Is(err, cause)) {
		return c.vm.explain(err)
	}
	if err != nil && status == (session.Status{}) {
		return err // killed, and the guest never said that it was
	}
	c.ProcessState = &ProcessState{status, c.process.PID()}
	if !c.ProcessState.Success() {
		return &ExitError{ProcessState: c.ProcessState, cause: cause}
	}
	return cause
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

// StdinPipe returns a pipe to the command's standard input. Close it so that the command sees the end;
// Wait closes it too.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.started {
		return nil, errors.New("vmtest: Stdin already set or command started")
	}
	r, w := io.Pipe()
	c.Stdin, c.theirs, c.ours = r, append(c.theirs, r), append(c.ours, w)
	return w, nil
}

// StdoutPipe returns a pipe from the command's standard output. Read it to its end before Wait, which closes it.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil || c.started {
		return nil, errors.New("vmtest: Stdout already set or command started")
	}
	r, w := io.Pipe()
	c.Stdout, c.theirs, c.ours = outputPipe{w}, append(c.theirs, w), append(c.ours, r)
	return r, nil
}

// StderrPipe is StdoutPipe for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil || c.started {
		return nil, errors.New("vmtest: Stderr already set or command started")
	}
	r, w := io.Pipe()
	c.Stderr, c.theirs, c.ours = outputPipe{w}, append(c.theirs, w), append(c.ours, r)
	return r, nil
}

// outputPipe ends with the command's end of it: who reads one to its end may not be reading the other yet.
type outputPipe struct{ *io.PipeWriter }

// EndOutput implements session.Ender.
func (p outputPipe) EndOutput() { _ = p.Close() } // a pipe in memory

func closeAll(ends []io.Closer) {
	for _, end := range ends {
		_ = end.Close() // a pipe in memory
	}
}

// Signal sends sig to the command's process group. It must have been started; one that has ended gets none.
func (c *Cmd) Signal(sig syscall.Signal) error {
	if c.process == nil {
		return ErrNotStarted
	}
	return c.process.Signal(sig)
}

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
	for i, arg := range c.Args {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(arg)
	}
	return b.String()
}
