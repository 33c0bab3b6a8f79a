package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/spool"
	"github.com/stile-vmm/stile/vmm"
)

// Control is a VM's control socket, with its console and the console's log. Its methods may be
// called concurrently.
type Control struct {
	console *control.Console
	whole   *control.Console // the console with what the kernel's ring buffer has besides: what is logged
	copies  []*spool.Spool   // of the console, to writers of the caller's
	records []io.Writer      // those of copies that get the ring buffer, too
	log     *control.Log     // nil in the nested host, which forgets everything
	server  *control.Server  // nil where none could be made
	kill    context.CancelCauseFunc
	vsock   *vmm.Vsock
	closing chan struct{} // closed when Close begins
	dialled chan *dialled // guest's connections for whoever asks OpAccept; nil but in the nested host

	opening opening // of the log

	mu     sync.Mutex
	info   control.Info
	target target // nil until there is a VM
	asked  control.Op
}

// target is a VM behind a control socket. Methods may be called concurrently.
type target interface {
	// do performs a request that does not attach.
	do(ctx context.Context, r *control.Request) error
	// describe adds to info what changes while the VM runs.
	describe(ctx context.Context, info *control.Info)
	// input is the guest's console input.
	input() io.Writer
}

// LogDir returns the folder of the VMs' logs.
func LogDir() (string, error) {
	cache, err := images.Open("")
	if err != nil {
		return "", err
	}
	return filepath.Join(cache.Dir(), "console"), nil
}

// NewControl makes the control socket of a VM that is about to be made of s; on says where. kill ends the attempt to. A
// VM whose name nobody chose does without a socket where none can be made. The caller closes it.
func NewControl(s Spec, on Place, kill context.CancelCauseFunc) (*Control, error) {
	c := &Control{console: control.NewConsole(), whole: control.NewConsole(), closing: make(chan struct{}), kill: kill, info: describe(s, on)}
	id := &c.info.ID
	if *id == "" {
		*id = control.NewID()
	}
	var err error
	if c.vsock, err = s.vsockOf(*id, on); err != nil {
		return nil, err
	}
	if c.vsock != nil && !c.vsock.Host && Nested() {
		c.dialled = make(chan *dialled)
		c.vsock.Dial = c.dial
	}
	if c.vsock != nil {
		c.info.Vsock = &control.Vsock{CID: c.vsock.CID, Path: c.vsock.Path}
	}
	if !Nested() {
		dir, err := LogDir()
		if err == nil {
			c.log, err = control.NewLog(dir, *id, c.whole)
		}
		if err != nil {
			return nil, err
		}
		c.info.Log = c.log.Path()
	}
	if c.server, err = control.Serve(*id, c); err == nil {
		return c, nil
	}
	if s.Name != "" {
		return nil, errors.Join(err, c.Close())
	}
	c.server = nil
	notice(fmt.Sprintf("stile ps and ctl will not know this VM: %v", err))
	return c, nil
}

func describe(s Spec, on Place) control.Info {
	if on == InLab {
		s = s.inLab()
	}
	s = s.withDefaults()
	info := control.Info{
		ID: s.Name, PID: os.Getpid(), Started: time.Now(), State: control.Starting, On: "host", Kernel: s.Kernel,
		CPUs: s.CPUs, Memory: s.Memory, Command: s.Command, Devices: s.Devices,
	}
	if on == InLab {
		info.On = "lab"
	}
	return info
}

// ID returns the VM's ID.
func (c *Control) ID() string { return c.info.ID }

// LogPath returns the path of the console's log, "" if there is none.
func (c *Control) LogPath() string { return c.info.Log }

// withLog adds the console's end, and where all of it is, to err.
func (c *Control) withLog(err error) error {
	return &bootError{err, c.console.Lines(tailLines), c.Report(), c.opening.whole}
}

// Report returns what is known of the VM's run before there is a VM.
func (c *Control) Report() Report {
	return Report{On: c.info.On, ID: c.info.ID, Log: c.info.Log}
}

// Console returns a writer to the console, and to those of outs that are not nil. Each of these may be slow, or stand still, without
// the others. A Recorder also gets what the console did not show. Of one Control, outs are given once.
func (c *Control) Console(outs ...io.Writer) io.Writer {
	for _, out := range outs {
		if out == nil {
			continue
		}
		s := spool.New(out)
		c.copies = append(c.copies, s)
		if _, ok := out.(Recorder); ok {
			c.records = append(c.records, s)
		}
	}
	return &copied{c, c.copies}
}

// recorder returns a writer for what the console did not show, to the log and to where it is wanted.
func (c *Control) recorder() io.Writer {
	return io.MultiWriter(append([]io.Writer{c.whole, &c.opening}, c.records...)...)
}

// copied is the console and copies of it, which may lag behind.
type copied struct {
	control *Control
	copies  []*spool.Spool
}

// Write implements io.Writer. It never fails.
func (c *copied) Write(p []byte) (int, error) {
	for _, s := range c.copies {
		_, _ = s.Write(p)
	}
	_, _ = c.control.whole.Write(p)
	_, _ = c.control.opening.Write(p)
	return c.control.console.Write(p)
}

// NeverWaits implements spool.Prompt.
func (c *copied) NeverWaits() {}

// Flush waits, not for long, until the copies are where they go.
func (c *copied) Flush() {
	for _, s := range c.copies {
		s.Flush()
	}
}

// Vsock returns the VM's socket device, with its path, nil if it has none.
func (c *Control) Vsock() *vmm.Vsock { return c.vsock }

// Machine makes vm, which has no agent and these disks, the VM that is steered. kill ends it.
func (c *Control) Machine(vm *vmm.VM, disks []vmm.Disk, kill context.CancelCauseFunc) {
	c.start(&machineTarget{vm: vm, disks: disks, kill: func() { kill(&EndedError{control.OpKill}) }, typed: vm.ConsoleInput()})
	c.running(c.info.Kernel)
}

// start makes t the VM that is steered.
func (c *Control) start(t target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = t
}

// running says that the guest is up, with a kernel of that release.
func (c *Control) running(kernel string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.info.Kernel = kernel
	if c.info.State == control.Starting {
		c.info.State = control.Running
	}
}

// Ended returns why the VM ended if somebody asked for that, else nil.
func (c *Control) Ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == "" {
		return nil
	}
	return &EndedError{c.asked}
}

// Handle implements control.Handler.
func (c *Control) Handle(ctx context.Context, r *control.Request) (control.Reply, func(io.ReadWriter), error) {
	c.mu.Lock()
	t, info := c.target, c.info
	c.mu.Unlock()
	switch r.Op {
	case control.OpInfo:
		if t != nil {
			t.describe(ctx, &info)
		}
		return control.Reply{Info: &info}, nil, nil
	case control.OpLog:
		return control.Reply{}, c.stream(c.whole, nil), nil
	case control.OpAccept:
		return c.accept()
	case control.OpConsole:
		return control.Reply{}, c.stream(c.console, t), nil
	}
	return control.Reply{}, nil, c.do(ctx, t, r)
}

// do performs a request that does not attach.
func (c *Control) do(ctx context.Context, t target, r *control.Request) error {
	switch {
	case r.Op == control.OpKill && t == nil:
		c.end(r.Op)
		c.kill(&EndedError{r.Op})
		return nil
	case t == nil:
		return errors.New("the VM is starting: try again")
	}
	undo := func() {}
	if r.Op == control.OpKill || r.Op == control.OpShutdown {
		undo = c.end(r.Op)
	}
	err := t.do(ctx, r)
	switch {
	case err == nil || errors.Is(err, control.ErrEnded):
	case r.Op == control.OpKill:
		c.kill(&EndedError{r.Op}) // all of it, then
		err = nil
	default:
		undo()
	}
	return err
}

// end notes that somebody asked for the VM's end; undo, that it goes on.
func (c *Control) end(by control.Op) (undo func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked, state := c.asked, c.info.State
	c.asked, c.info.State = by, control.Stopping
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked, c.info.State = asked, state
	}
}

// stream shows a viewer a console. What the viewer writes goes to t's input, if there is t.
func (c *Control) stream(console *control.Console, t target) func(io.ReadWriter) {
	return func(conn io.ReadWriter) {
		view := console.View()
		go func() {
			input := io.Discard
			if t != nil {
				input = t.input()
			}
			_, _ = io.Copy(input, conn) // ends with the viewer or the VM
			view.Close()
		}()
		_, _ = io.Copy(conn, struct{ io.Reader }{view}) // until either is gone
	}
}

// Close ends the console, its log and the socket. Further calls do nothing.
func (c *Control) Close() error {
	_, _ = c.console.Close(), c.whole.Close()
	for _, s := range c.copies {
		_ = s.Close()
	}
	c.mu.Lock()
	server, log := c.server, c.log
	c.server, c.log = nil, nil
	c.mu.Unlock()
	var errs []error
	if log != nil {
		errs = append(errs, log.Close())
	}
	if server != nil {
		close(c.closing)
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}
