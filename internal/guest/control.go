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
	"github.com/stile-vmm/stile/vmm"
)

// Control is a VM's control socket, with its console and the console's log. Its methods may be
// called concurrently.
type Control struct {
	console *control.Console
	log     *control.Log    // nil in the nested host, which forgets everything
	server  *control.Server // nil where none could be made
	kill    context.CancelCauseFunc

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
	// attach connects to what a request asks for.
	attach(ctx context.Context, r *control.Request) (io.ReadWriteCloser, error)
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
	c := &Control{console: control.NewConsole(), kill: kill, info: describe(s.withDefaults(), on)}
	id := &c.info.ID
	if *id == "" {
		*id = control.NewID()
	}
	if !Nested() {
		dir, err := LogDir()
		if err == nil {
			c.log, err = control.NewLog(dir, *id, c.console)
		}
		if err != nil {
			return nil, err
		}
		c.info.Log = c.log.Path()
	}
	var err error
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
	return &bootError{err, c.console.Lines(tailLines), c.LogPath()}
}

// Console returns a writer to the console, and to out where that is not nil.
func (c *Control) Console(out io.Writer) io.Writer {
	if out == nil {
		return c.console
	}
	return io.MultiWriter(c.console, out) // in this order: out may fail
}

// Machine makes vm, which has no agent, the VM that is steered. kill ends it.
func (c *Control) Machine(vm *vmm.VM, kill context.CancelCauseFunc) {
	c.start(&machineTarget{vm: vm, kill: func() { kill(&EndedError{control.OpKill}) }, typed: vm.ConsoleInput()})
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
		return control.Reply{}, c.stream(nil), nil
	case control.OpConsole:
		return control.Reply{}, c.stream(t), nil
	case control.OpConnect:
		return c.connect(ctx, t, r)
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
	case r.Op == control.OpKill || r.Op == control.OpShutdown:
		c.end(r.Op)
	}
	err := t.do(ctx, r)
	if err != nil && r.Op == control.OpKill {
		c.kill(&EndedError{r.Op}) // all of it, then
		err = nil
	}
	return err
}

// end notes that somebody asked for the VM's end.
func (c *Control) end(by control.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.info.State = by, control.Stopping
}

// stream shows a viewer the console. What the viewer writes goes to t's input, if there is t.
func (c *Control) stream(t target) func(io.ReadWriter) {
	return func(conn io.ReadWriter) {
		view := c.console.View()
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

// connect joins the client with what t attaches it to.
func (c *Control) connect(ctx context.Context, t target, r *control.Request) (control.Reply, func(io.ReadWriter), error) {
	if t == nil {
		return control.Reply{}, nil, errors.New("the VM is starting: try again")
	}
	peer, err := t.attach(ctx, r)
	if err != nil {
		return control.Reply{}, nil, err
	}
	return control.Reply{}, func(conn io.ReadWriter) { join(conn, peer) }, nil
}

// join copies both ways until one of them ends both.
func join(conn io.ReadWriter, peer io.ReadWriteCloser) {
	defer peer.Close()
	go func() {
		_, _ = io.Copy(peer, conn)
		halfClose(peer)
	}()
	_, _ = io.Copy(conn, peer)
}

// halfClose ends what is written to a stream, or all of it where that can't be.
func halfClose(s io.Closer) {
	if h, ok := s.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite() // a stream that is gone
		return
	}
	s.Close()
}

// Close ends the console, its log and the socket. Further calls do nothing.
func (c *Control) Close() error {
	_ = c.console.Close()
	c.mu.Lock()
	server, log := c.server, c.log
	c.server, c.log = nil, nil
	c.mu.Unlock()
	var errs []error
	if log != nil {
		errs = append(errs, log.Close())
	}
	if server != nil {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}
