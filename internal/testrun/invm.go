package testrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
)

// errKilled says of a test binary what its guest alone can have done.
var errKilled = errors.New("the test binary was killed in the guest; if that ran out of memory, as the kernel's log tells, --memory gives it more")

// InVM boots a VM for a test binary alone, runs it there on this process's standard streams, and returns the exit status for this
// process. What goes wrong with the VM is told on stderr. Signals are passed on to the binary: the go command
// sends SIGQUIT to one that does not end. A second one ends the VM.
//
// The error is an *guest.UnavailableError, where no VM can run, or ErrFuzz; nothing was told then.
func InVM(spec guest.Spec, where guest.Anywhere, c *Command) (int, error) {
	if ParseFlags(c.Args).Fuzzes() {
		return guest.ExitSetup, ErrFuzz
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	spec.Scratch = Scratch

	vm, status, err := boot(ctx, cancel, spec, where, signals)
	if unavailable := (*guest.UnavailableError)(nil); errors.As(err, &unavailable) {
		return status, err
	}
	if err != nil {
		explain(os.Stderr, err, guest.KernelLog(err), guest.LogPath(err))
		return status, nil
	}
	c.Env = append(c.Env, EnvGuest+"="+GuestAll)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	forwarded := make(chan os.Signal, cap(signals))
	go passSignals(ctx, cancel, signals, forwarded)
	c.Signals = forwarded
	ended, err := Run(ctx, vm.Session(), c)
	status = ended.ExitCode()
	if err == nil && ended.Signal == syscall.SIGKILL {
		explain(os.Stderr, errKilled, vm.KernelLog(), vm.LogPath())
	}
	if err != nil {
		err = vm.Explain(err)
		if status == 0 {
			status = guest.ExitStatus(err)
		}
		explain(os.Stderr, err, vm.KernelLog(), vm.LogPath())
	}
	died := err != nil
	if err := vm.Close(); err != nil {
		say.Line(os.Stderr, err.Error())
	}
	if fault := vm.Fault(); fault != nil && !died {
		status = guest.ExitStatus(fault)
		explain(os.Stderr, fault, vm.KernelLog(), vm.LogPath())
	}
	return status, nil
}

// boot waits for room and boots. A signal ends it.
func boot(ctx context.Context, cancel context.CancelCauseFunc, spec guest.Spec, where guest.Anywhere, signals <-chan os.Signal) (*VM, int, error) {
	booted := make(chan struct{})
	watched := make(chan os.Signal, 1)
	go func() {
		defer close(watched)
		select {
		case <-booted:
		case s := <-signals:
			watched <- s
			cancel(fmt.Errorf("signal: %v", s))
		}
	}()
	vm, err := Start(ctx, spec, where, nil)
	close(booted)
	if sig, ok := (<-watched).(syscall.Signal); ok {
		if err == nil {
			err = errors.Join(context.Cause(ctx), vm.Close())
		}
		return nil, 128 + int(sig), err
	}
	return vm, guest.ExitStatus(err), err
}

// passSignals passes the first signal on. A second one ends ctx.
func passSignals(ctx context.Context, cancel context.CancelCauseFunc, from <-chan os.Signal, to chan<- os.Signal) {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case s := <-from:
			if n > 0 {
				cancel(fmt.Errorf("signal: %v", s))
				return
			}
			to <- s
		}
	}
}

// explain tells why a VM has failed its test binary.
func explain(w io.Writer, err error, kernelLog []byte, path string) {
	say.Line(w, err.Error())
	if len(kernelLog) > 0 {
		say.Line(w, "the kernel log's end:\n"+string(kernelLog))
	}
	if path != "" {
		say.Line(w, "the whole kernel log: "+path)
	}
}
