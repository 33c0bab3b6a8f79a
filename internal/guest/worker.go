package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

// envWorker carries a Spec, as JSON, to a process that runs a VM for another.
const envWorker = "STILE_WORKER"

// MaybeHelper does what stile starts its own binary for: being a guest's /init, unpacking
// a kernel, running a VM for a process outside the nested host. In such a process it does
// not return. Programs that boot guests call it first in main.
func MaybeHelper() {
	agent.MaybeRun()
	images.MaybeUnpack()
	if spec := os.Getenv(envWorker); spec != "" {
		os.Exit(worker(spec))
	}
}

// worker runs the VM of a Spec with its agent's channel on standard input and output and
// its console on standard error. It returns the exit status.
func worker(text string) int {
	var s Spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, "stile:", err)
		return ExitSetup
	}
	result, err := runWorker(s)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "stile:", err)
		return ExitSetup
	case result.Died():
		fmt.Fprintln(os.Stderr, "stile:", (&DiedError{result}).Error())
		return ExitDied
	}
	return 0
}

func runWorker(s Spec) (vmm.Result, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg, err := Machine(ctx, s, os.Stderr)
	if err != nil {
		return vmm.Result{}, err
	}
	vm, err := vmm.New(ctx, cfg)
	if err != nil {
		return vmm.Result{}, err
	}
	go func() { _, _ = io.Copy(os.Stdout, vm.Agent()) }() // ends with the VM
	go func() {
		_, _ = io.Copy(vm.Agent(), os.Stdin)
		cancel() // who wanted the VM is gone
	}()
	result, err := vm.Run(ctx)
	return result, errors.Join(err, vm.Close())
}

// StartWorker runs a worker for s in the nested host and returns its agent's channel.
// console receives the guest's console. wait returns when the worker has ended.
func (h *LabHost) StartWorker(ctx context.Context, s Spec, console io.Writer) (conn io.ReadWriteCloser, wait func() error, err error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	fromHost, toWorker := io.Pipe()
	fromWorker, toHost := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, &lab.Options{
			Env: []string{envWorker + "=" + string(text)}, Stdin: fromHost, Stdout: toHost, Stderr: console,
		})
		toHost.CloseWithError(io.EOF)
		fromHost.CloseWithError(io.ErrClosedPipe)
		done <- err
	}()
	return duplex{fromWorker, toWorker}, func() error { return <-done }, nil
}

// duplex joins two pipes to one channel.
type duplex struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (d duplex) Write(p []byte) (int, error) { return d.w.Write(p) }

func (d duplex) Close() error { return errors.Join(d.PipeReader.Close(), d.w.Close()) }
