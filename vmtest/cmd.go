package vmtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"

	"github.com/stile-vmm/stile/internal/session"
)

// Cmd is a command in a VM, used like an exec.Cmd: set its fields, then Run it, or Start
// and Wait. It is used once.
type Cmd struct {
	Args   []string
	Env    []string // added to the VM's environment, as KEY=VALUE
	Dir    string   // in the guest; the test's own folder in a view of the host's root, else /
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	vm      *VM
	ctx     context.Context
	process *session.Process
	status  session.Status
}

// Command returns a command to be run in the VM: no shell is involved. When ctx ends, it
// is killed.
func (vm *VM) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, args...), Dir: vm.dir, vm: vm, ctx: ctx}
}

// ExitError says that a command ended with another status than 0, or by a signal.
type ExitError struct {
	session.Status
	// Stderr is the command's standard error, if it was collected by Output.
	Stderr []byte
}

func (e *ExitError) Error() string { return e.Status.String() }

// Start starts the command and does not wait for its end. Wait must follow.
func (c *Cmd) Start() error {
	if c.process != nil {
		return errors.New("vmtest: command already started")
	}
	p, err := c.vm.session.Start(c.ctx, &session.Cmd{
		Args: c.Args, Env: append(slices.Clone(c.vm.env), c.Env...), Dir: c.Dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
	})
	if err != nil {
		return err
	}
	c.process = p
	return nil
}

// Wait waits for the end of the command and of its output. The error is an *ExitError if
// its status is not 0.
func (c *Cmd) Wait() error {
	if c.process == nil {
		return errors.New("vmtest: command not started")
	}
	var err error
	if c.status, err = c.process.Wait(); err != nil {
		return err
	}
	if c.status.ExitCode() != 0 {
		return &ExitError{Status: c.status}
	}
	return nil
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

// Signal sends sig to the command's process group. It must be running.
func (c *Cmd) Signal(sig syscall.Signal) error {
	if c.process == nil {
		return errors.New("vmtest: command not started")
	}
	return c.process.Signal(sig)
}

// ExitCode returns the status of a command that has ended as a shell reports it: 128+n for
// signal n.
func (c *Cmd) ExitCode() int { return c.status.ExitCode() }
