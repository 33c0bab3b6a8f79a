package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/hostsock"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/vmm"
)

// typist is a VM that remembers what it is told.
type typist struct {
	mu     sync.Mutex
	ops    []control.Op
	refuse error
	typed  chan string
}

func (v *typist) do(_ context.Context, r *control.Request) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ops = append(v.ops, r.Op)
	if r.Op == control.OpBalloon {
		return errors.New("no balloon")
	}
	return v.refuse
}

func (v *typist) describe(_ context.Context, info *control.Info) {
	info.Balloon = &control.Balloon{Actual: 5}
}
func (v *typist) input() io.Writer { return v }

func (v *typist) Write(p []byte) (int, error) {
	v.typed <- string(p)
	return len(p), nil
}

// nestedPair returns the control of a VM in a nested host, and that of the stile outside, which has the target that is
// returned: both in this process.
func nestedPair(t *testing.T, vm target) (inside, outside *Control, through *nestedTarget) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(control.EnvDir, filepath.Join(dir, "in"))
	inside = &Control{
		console: control.NewConsole(), whole: control.NewConsole(), closing: make(chan struct{}), dialled: make(chan *dialled),
		info: control.Info{ID: "vm", State: control.Running, Kernel: "6.1"}, target: vm,
	}
	server, err := control.Serve("vm", inside)
	if err != nil {
		t.Fatal(err)
	}
	inside.server = server
	t.Cleanup(func() { inside.Close() })
	through = &nestedTarget{id: "vm", gone: t.Context().Done(), dial: func(ctx context.Context, socket string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "in", socket))
	}}
	outside = &Control{console: control.NewConsole(), whole: control.NewConsole(), closing: make(chan struct{}), info: control.Info{ID: "vm", PID: 7, On: "lab"}, target: through}
	return inside, outside, through
}

func TestControlThroughTheLab(t *testing.T) {
	vm := &typist{typed: make(chan string, 1)}
	inside, outside, through := nestedPair(t, vm)
	ctx := t.Context()
	reply, _, err := outside.Handle(ctx, &control.Request{Op: control.OpInfo})
	if err != nil {
		t.Fatal(err)
	}
	if in := reply.Info; in.PID != 7 || in.On != "lab" || in.Kernel != "6.1" || in.State != control.Running || in.Balloon.Actual != 5 {
		t.Errorf("info %+v", in)
	}
	if _, _, err := outside.Handle(ctx, &control.Request{Op: control.OpBalloon}); err == nil || !strings.Contains(err.Error(), "no balloon") {
		t.Errorf("balloon: %v", err)
	}
	if _, _, err := outside.Handle(ctx, &control.Request{Op: control.OpShutdown}); err != nil {
		t.Error(err)
	}
	for _, c := range []*Control{inside, outside} {
		var ended *EndedError
		if err := c.Ended(); !errors.As(err, &ended) || ended.By != control.OpShutdown {
			t.Errorf("ended: %v", err)
		}
	}
	if _, err := through.Write([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	if got := <-vm.typed; got != "typed" {
		t.Errorf("the console's input is %q", got)
	}
	through.close()
	_, _ = io.WriteString(inside.Console(nil), "last words")
	var got bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		through.follow(ctx, &got)
	}()
	for !through.found.Load() {
		if ctx.Err() != nil {
			t.Fatal("not found")
		}
	}
	if err := inside.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if got.String() != "last words" {
		t.Errorf("the console outside has %q", &got)
	}
}

// A VM that can't be shut down goes on, and ends as its own command says. One that ends while it is told so was told.
func TestRefusedShutdown(t *testing.T) {
	for _, test := range []struct {
		refuse error
		ended  bool
	}{{errors.New("no agent"), false}, {control.ErrEnded, true}} {
		c := &Control{info: control.Info{State: control.Running}, target: &typist{refuse: test.refuse}}
		if _, _, err := c.Handle(t.Context(), &control.Request{Op: control.OpShutdown}); !errors.Is(err, test.refuse) {
			t.Errorf("%v", err)
		}
		if got := c.Ended(); (got != nil) != test.ended || (c.info.State == control.Stopping) != test.ended {
			t.Errorf("after %q: ended %v, state %s", test.refuse, got, c.info.State)
		}
	}
}

// A guest whose reboot would end the run is not rebooted.
func TestRebootThatEndsTheRun(t *testing.T) {
	g := &Guest{}
	g.ready.Store(true)
	err := (&guestTarget{guest: g}).do(t.Context(), &control.Request{Op: control.OpReboot})
	if err == nil || !strings.Contains(err.Error(), "run it with --on-reboot reset") {
		t.Errorf("%v", err)
	}
}

func TestVsockThroughTheLab(t *testing.T) {
	inside, _, through := nestedPair(t, &typist{})
	// Towards the guest: a device that echoes stands for it.
	device, err := hostsock.Listen(filepath.Join(filepath.Dir(mustPath(t)), "vm"+control.VsockSuffix))
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	device.Serve(func(_ uint32, conn *net.UnixConn, opened func(uint32) error) error {
		if err := opened(1); err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
		return nil
	})
	path := filepath.Join(t.TempDir(), "v")
	end, err := through.relay(&vmm.Vsock{CID: 3, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "CONNECT 9\nhello")
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "OK 1\nhello" || err != nil {
		t.Errorf("to the guest and back: %q, %v", got, err)
	}
	// From the guest.
	if _, err := inside.dial(81); err == nil {
		t.Error("connected with nobody")
	}
	l, err := net.Listen("unix", hostsock.PortPath(path, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	}()
	up, err := inside.dial(80)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	_, _ = io.WriteString(up, "question")
	_ = up.CloseWrite()
	if got, err := io.ReadAll(up); string(got) != "question" || err != nil {
		t.Errorf("from the guest and back: %q, %v", got, err)
	}
}

// mustPath returns the path of the VM's control socket.
func mustPath(t *testing.T) string {
	t.Helper()
	path, err := control.Path("vm")
	if err != nil {
		t.Fatal(err)
	}
	return path
}
