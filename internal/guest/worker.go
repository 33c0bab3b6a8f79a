package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/bytejson"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/internal/session"
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
	if err := bytejson.Unmarshal([]byte(text), &s); err != nil {
		say.Line(os.Stderr, err.Error())
		return ExitSetup
	}
	result, err := runWorker(s)
	switch {
	case err != nil:
		say.Line(os.Stderr, Advice(err.Error()))
		return ExitSetup
	case result.Died():
		say.Line(os.Stderr, (&DiedError{result}).Error())
		return ExitDied
	}
	return workerStatus[result.Reason]
}

// workerStatus are a worker's exit statuses by what its guest did itself, for who started it.
var workerStatus = map[vmm.Reason]int{vmm.PowerOff: 3, vmm.Reset: 4}

// endOf returns how a worker's guest ended by its exit status, nil where that says nothing.
func endOf(status lab.Status) *DiedError {
	for reason, code := range workerStatus {
		if status.Signal == 0 && status.Code == code {
			return &DiedError{vmm.Result{Reason: reason}}
		}
	}
	return nil
}

func runWorker(s Spec) (vmm.Result, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg, made, err := machine(ctx, s, os.Stderr)
	if err != nil {
		return vmm.Result{}, err
	}
	claim, err := CheckDevices(s)
	if err != nil {
		return vmm.Result{}, err
	}
	if err := claim.Take(); err != nil {
		return vmm.Result{}, err
	}
	claim.Apply(&cfg)
	vm, err := vmm.New(ctx, cfg)
	if err != nil {
		return vmm.Result{}, errors.Join(err, claim.Release())
	}
	go func() { _, _ = io.Copy(os.Stdout, vm.Agent()) }() // ends with the VM
	go func() {
		_, _ = io.Copy(vm.Agent(), os.Stdin)
		vm.AwaitReport()
		cancel() // who wanted the VM is gone
	}()
	result, err := vm.Run(ctx)
	result.Detail = withSymbols(made.Symbols, result.Detail)
	return result, errors.Join(err, vm.Close(), claim.Release())
}

// LabGuest is a guest in the nested host, with its agent connected from here.
type LabGuest struct {
	session *session.Session
	control *Control
	ended   chan struct{} // closed when the worker has ended and runErr is set
	runErr  error         // why the worker could not run to its end; a *DiedError of a guest that was ended from here
	itself  *DiedError    // how the guest has ended itself, nil where it has not or that is not known; set with runErr
	log     puller
	faults  *faultLog // reports of its kernel
	spec    Spec
}

// boot boots a guest of s, which must be the Spec that the host was resumed for. It is c's from now on. ctx
// bounds the boot only. The guest ends with the host.
func (h *LabHost) boot(ctx context.Context, s Spec, c *Control) (*LabGuest, error) {
	s = s.inLab()
	text, err := bytejson.Marshal(s)
	if err != nil {
		return nil, err
	}
	fromHost, toWorker := io.Pipe()
	fromWorker, toHost := io.Pipe()
	g := &LabGuest{control: c, ended: make(chan struct{}), faults: newFaultLog(s, notice), spec: s}
	running, end := context.WithCancelCause(context.Background())
	go func() {
		defer close(g.ended)
		defer end(nil)
		status, err := h.Run(running, &lab.Options{
			Env: []string{envWorker + "=" + string(text)}, Stdin: fromHost, Stdout: toHost, Stderr: io.MultiWriter(c.Console(nil), g.faults),
		})
		g.runErr, g.itself = err, endOf(status)
		if died := (*DiedError)(nil); errors.As(context.Cause(running), &died) {
			g.runErr = died
		}
		toHost.CloseWithError(errors.Join(g.runErr, io.EOF))
		fromHost.CloseWithError(io.ErrClosedPipe)
	}()
	if err := g.connect(ctx, s, h.images, duplex{fromWorker, toWorker}); err != nil {
		return nil, c.withLog(err)
	}
	if !s.KeepGoing {
		go func() {
			if hung := watchAgent(running, g.session, pulseLimit*nestedFactor); hung != nil {
				end(&DiedError{*hung})
			}
		}()
	}
	records := c.recorder()
	g.log.record = func(line []byte) { _, _ = records.Write(g.faults.record(line)) }
	g.log.follow(g.session)
	c.start(&workerTarget{g, h})
	c.running(g.session.Hello().Kernel)
	return g, nil
}

func (g *LabGuest) connect(ctx context.Context, s Spec, made Images, conn io.ReadWriteCloser) error {
	ctx, cancel := s.bootContext(ctx)
	defer cancel()
	var err error
	if g.session, err = session.Dial(ctx, conn); err == nil {
		s.noticeCPUs(g.session.Hello())
		err = g.session.Setup(ctx, setup(s, made))
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Session returns the connection to the guest's agent.
func (g *LabGuest) Session() *session.Session { return g.session }

// KernelLog returns the last lines of the guest's kernel log, and what its worker said.
func (g *LabGuest) KernelLog() []byte { return g.control.console.Lines(tailLines) }

// workerGrace is how long a worker may take to end, with all that its guest's kernel has printed.
const workerGrace = 3 * time.Second

// Close powers the guest off in order where it must be, and leaves it to the host's end where that fails.
func (g *LabGuest) Close() error {
	g.log.drain(g.session)
	if !g.spec.keeps() {
		err := g.session.Close()
		select {
		case <-g.ended:
		case <-time.After(workerGrace):
		}
		return err
	}
	lost := g.spec.lost(powerOff(context.Background(), g.session, g.ended, powerOffGrace*nestedFactor))
	return errors.Join(lost, g.session.Close())
}

// duplex joins two pipes to one channel.
type duplex struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (d duplex) Write(p []byte) (int, error) { return d.w.Write(p) }

func (d duplex) Close() error { return errors.Join(d.PipeReader.Close(), d.w.Close()) }
