package guest

import (
	"context"
	"io"
	"net"
	"path"

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
			if err != nil {
				return
			}
			go t.carry(ctx, conn)
		}
	}()
	return func() { cancel(); l.Close() }, nil
}

// carry joins a client with the socket in the nested host.
func (t *nestedTarget) carry(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	peer, err := t.host.Session().Dial(ctx, "unix", path.Join(nestedRun, t.id+control.VsockSuffix))
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
