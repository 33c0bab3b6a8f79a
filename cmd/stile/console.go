package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/vmm"
)

// runConsole boots the kernel and the initramfs as they are, with the serial console on
// the terminal.
func (f *runFlags) runConsole() error {
	log, closeLog, err := f.console()
	if err != nil {
		return f.fail(err)
	}
	defer closeLog()
	outs := []io.Writer{os.Stdout}
	if f.consoleLog != "" {
		outs = append(outs, log[0]) // and not stderr a second time
	}
	s := watchSignals()
	defer s.stop()
	f.ends = s.boot()
	t := &terminal{}
	if isTerminal(os.Stdin) {
		if t, err = rawTerminal(os.Stdin, s); err != nil {
			return f.bootFailed(s, err)
		}
	}
	defer t.restore()
	ctx, cancel := s.limited(f.timeout)
	defer cancel()
	ctx, escape := context.WithCancelCause(ctx)
	defer escape(nil)
	input := &escapeReader{in: os.Stdin, escape: func() { escape(errEscape) }, active: t.file != nil}
	claim, err := guest.CheckDevices(f.spec)
	if err != nil {
		return f.bootFailed(s, err)
	}
	control, err := guest.NewControl(f.spec, guest.OnHost, escape)
	if err != nil {
		return f.bootFailed(s, err)
	}
	defer control.Close()
	cfg, err := guest.ConsoleMachine(ctx, f.spec, control.Console(outs...), input)
	if err != nil {
		return f.bootFailed(s, err)
	}
	if err := claim.Take(); err != nil {
		return f.bootFailed(s, err)
	}
	claim.Apply(&cfg)
	cfg.Vsock = control.Vsock()
	vm, err := vmm.New(ctx, cfg)
	if err != nil {
		return f.bootFailed(s, errors.Join(err, claim.Release()))
	}
	control.Machine(vm, cfg.Disks, escape)
	defer s.aroundStop(vm.Hold)()
	result, err := vm.Run(ctx)
	t.restore()
	report := control.Report()
	report.Guest = &result
	report.AddMachine(vm, f.spec, nil)
	if err := errors.Join(vm.Close(), claim.Release()); err != nil {
		return f.fail(err)
	}
	if err != nil {
		return f.fail(err)
	}
	return f.finish(f.consoleReport(ctx, s, report, result))
}

var errEscape = errors.New("ended by Ctrl-A x")

// consoleReport turns how the VM ended into status and message.
func (f *runFlags) consoleReport(ctx context.Context, s *signals, r guest.Report, result vmm.Result) (guest.Report, error) {
	cause := context.Cause(ctx)
	var ended *guest.EndedError
	switch {
	case result.Reason == vmm.Canceled && errors.As(cause, &ended):
		r.Status, r.Reason, r.Message = ended.ExitStatus(), "killed", ended.Error()
	case result.Reason == vmm.Canceled && cause == errTimeout:
		r.Status, r.Reason = guest.ExitTimeout, "timeout"
		r.Message = fmt.Sprintf("the guest ran longer than %v and was ended", f.timeout)
	case result.Reason == vmm.Canceled && cause == errEscape:
		r.Status, r.Reason = 0, "escape"
	case result.Reason == vmm.Canceled:
		r.Status, r.Reason = s.status(), "killed"
	case result.Died():
		died := &guest.DiedError{Result: result}
		r.Status, r.Reason, r.Message = guest.ExitDied, "died", died.Error()
	case result.Reason == vmm.DebugExit:
		r.Status, r.Reason = result.Code, "debug-exit"
	default:
		r.Reason = string(result.Reason)
	}
	if r.Message == "" {
		return r, nil
	}
	return r, errors.New(r.Message)
}

// escapeReader watches a raw terminal's input for Ctrl-A x, which ends the VM; Ctrl-A
// Ctrl-A is one Ctrl-A.
type escapeReader struct {
	in      io.Reader
	escape  func()
	active  bool
	pending bool // Ctrl-A came
}

const ctrlA = 1

func (e *escapeReader) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if !e.active {
		return n, err
	}
	out := bytes.NewBuffer(p[:0])
	for _, b := range bytes.Clone(p[:n]) {
		switch {
		case e.pending && b == 'x':
			e.escape()
			e.pending = false
		case e.pending || b != ctrlA:
			e.pending = false
			out.WriteByte(b)
		default:
			e.pending = true
		}
	}
	return out.Len(), err
}
