package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/internal/control"
)

// nestedRun is where the nested host's stile has its control sockets.
const nestedRun = "/run/stile"

// nestedTarget steers a VM through the control socket of the stile in the nested host that
// runs it.
type nestedTarget struct {
	id   string
	dial func(ctx context.Context, socket string) (net.Conn, error) // by the socket's name there
	gone <-chan struct{}                                            // closed when the nested host is

	found atomic.Bool // the nested stile's socket

	typing sync.Mutex // guards typed
	typed  io.WriteCloser
}

// Follow makes host, in which a stile is about to run c's VM under the same name, what c steers. The
// returned function waits until c has all of that VM's console, or until it is clear that
// it won't come.
func (c *Control) Follow(host *LabHost) (done func(), err error) {
	session := host.Session()
	t := &nestedTarget{id: c.ID(), gone: session.Done(), dial: func(ctx context.Context, socket string) (net.Conn, error) {
		return session.Dial(ctx, "unix", path.Join(nestedRun, socket))
	}}
	relay, err := t.relay(c.vsock)
	if err != nil {
		return nil, err
	}
	c.start(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.follow(ctx, c.Console(nil))
	}()
	return func() {
		if !t.found.Load() {
			cancel() // there never was a VM
		}
		defer time.AfterFunc(followGrace, cancel).Stop()
		<-ended
		cancel()
		t.close()
		relay()
	}, nil
}

const (
	// followGrace is how long the end of a console may take to come from the nested host.
	followGrace = 5 * time.Second
	// The nested stile's socket is looked for at intervals that grow from the first to the last.
	firstDial = 50 * time.Millisecond
	lastDial  = time.Second
)

// follow copies the VM's console to w until the VM or ctx ends.
func (t *nestedTarget) follow(ctx context.Context, w io.Writer) {
	for wait := firstDial; ; wait = min(2*wait, lastDial) {
		conn, err := t.open(ctx, &control.Request{Op: control.OpLog})
		if err == nil {
			t.found.Store(true)
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			_, _ = io.Copy(w, conn) // until the VM ends
			conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.gone:
			return
		case <-time.After(wait):
		}
	}
}

// open sends r to the nested stile and returns the connection.
func (t *nestedTarget) open(ctx context.Context, r *control.Request) (net.Conn, error) {
	conn, _, err := t.exchange(ctx, r)
	return conn, err
}

func (t *nestedTarget) exchange(ctx context.Context, r *control.Request) (net.Conn, *control.Reply, error) {
	conn, err := t.dial(ctx, t.id+control.SocketSuffix)
	if err != nil {
		return nil, nil, err
	}
	reply, err := control.Exchange(ctx, conn, r)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, reply, nil
}

func (t *nestedTarget) do(ctx context.Context, r *control.Request) error {
	conn, err := t.open(ctx, r)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (t *nestedTarget) describe(ctx context.Context, info *control.Info) {
	conn, reply, err := t.exchange(ctx, &control.Request{Op: control.OpInfo})
	if err != nil {
		return // it is not there yet
	}
	conn.Close()
	if in := reply.Info; in != nil {
		info.State, info.Kernel, info.Balloon, info.Disks = in.State, in.Kernel, in.Balloon, in.Disks
	}
}

func (t *nestedTarget) input() io.Writer { return t }

// Write is console input of any viewer. Its connection to the nested stile stays, and what it
// shows is not looked at: follow does.
func (t *nestedTarget) Write(p []byte) (int, error) {
	t.typing.Lock()
	defer t.typing.Unlock()
	if t.typed == nil {
		ctx, cancel := context.WithTimeout(context.Background(), followGrace)
		defer cancel()
		conn, err := t.open(ctx, &control.Request{Op: control.OpConsole})
		if err != nil {
			return 0, err
		}
		t.typed = conn
		go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the VM
	}
	return t.typed.Write(p)
}

func (t *nestedTarget) close() {
	t.typing.Lock()
	defer t.typing.Unlock()
	if t.typed != nil {
		t.typed.Close()
	}
}
