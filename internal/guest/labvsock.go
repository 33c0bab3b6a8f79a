package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/hostsock"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/vmm"
)

// relay lets the UNIX socket of a vsock device of this host stand for the one in the nested host. The
// returned function ends that.
func (t *nestedTarget) relay(v *vmm.Vsock) (end func(), err error) {
	if v == nil {
		return func() {}, nil
	}
	l, err := hostsock.Bind(v.Path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(firstDial) // out of descriptors, which passes
				continue
			}
			if hostsock.CheckPeer(conn) != nil {
				conn.Close()
				continue
			}
			go t.carry(ctx, conn)
		}
	}()
	go t.takeDialled(ctx, v.Path)
	return func() { cancel(); l.Close() }, nil
}

// carry joins a client with the socket in the nested host.
func (t *nestedTarget) carry(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	dialling, dialled := context.WithTimeout(ctx, dialLimit)
	peer, err := t.dial(dialling, t.id+control.VsockSuffix)
	dialled()
	if err != nil {
		return // the client finds out
	}
	join(conn, peer)
}

// join copies both ways until both have ended.
func join(a, b io.ReadWriteCloser) {
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(b, a)
		halfClose(b)
	}()
	_, _ = io.Copy(a, b)
	halfClose(a)
	<-done
}

// halfClose ends what is written to a stream, or all of it where that can't be.
func halfClose(s io.Closer) {
	if h, ok := s.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite() // a stream that is gone
		return
	}
	s.Close()
}

// dialled is a connection that a guest in the nested host opens to a port of the host.
type dialled struct {
	port uint32
	conn *net.UnixConn
	done chan bool // whether the other side has accepted
}

// dialLimit is how long that may take.
const dialLimit = 10 * time.Second

var errNobody = errors.New("nobody takes connections of the nested host's guests")

// dial opens a connection of the guest, in the nested host, to a port of the real one.
func (c *Control) dial(port uint32) (*net.UnixConn, error) {
	near, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	d := &dialled{port, far, make(chan bool, 1)}
	limit := time.After(dialLimit)
	select {
	case c.dialled <- d:
	case <-limit:
		return nil, errors.Join(errNobody, near.Close(), far.Close())
	}
	select {
	case ok := <-d.done:
		if ok {
			return near, nil
		}
	case <-limit:
	}
	return nil, errors.Join(errNobody, near.Close())
}

// accept waits for a connection of the guest, and hands it over to who asks.
func (c *Control) accept() (control.Reply, func(io.ReadWriter), error) {
	if c.dialled == nil {
		return control.Reply{}, nil, errors.New("accept: only of a VM in the nested host with --vsock")
	}
	select {
	case d := <-c.dialled:
		return control.Reply{Port: d.port}, d.join, nil
	case <-c.closing:
		return control.Reply{}, nil, errors.New("the VM has ended")
	}
}

// join joins the guest's connection with conn, once who has it accepts.
func (d *dialled) join(conn io.ReadWriter) {
	var yes [1]byte
	if _, err := io.ReadFull(conn, yes[:]); err != nil {
		d.conn.Close()
		d.done <- false
		return
	}
	d.done <- true
	if c, ok := conn.(io.ReadWriteCloser); ok {
		join(c, d.conn)
	}
}

// takeDialled takes connections of the guest to ports of this host until ctx ends, and connects them by
// the sockets beside path.
func (t *nestedTarget) takeDialled(ctx context.Context, path string) {
	for wait := firstDial; ctx.Err() == nil; {
		conn, reply, err := t.exchange(ctx, &control.Request{Op: control.OpAccept})
		if err == nil {
			wait = firstDial
			go connectDialled(ctx, conn, hostsock.PortPath(path, reply.Port))
			continue
		}
		select { // it is not there yet, or has ended
		case <-ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, lastDial)
		}
	}
}

// connectDialled joins conn with the socket at path, where somebody listens.
func connectDialled(ctx context.Context, conn net.Conn, path string) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	peer, err := hostsock.Dial(path)
	if err != nil {
		return
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		peer.Close()
		return
	}
	join(conn, peer)
}

// socketPair returns the two ends of a stream.
func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	a, err = unixConn(fds[0])
	b, errB := unixConn(fds[1])
	return a, b, errors.Join(err, errB)
}

// unixConn makes fd, which it takes, a connection.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("socketpair: not a UNIX socket"), conn.Close())
	}
	return c, nil
}
