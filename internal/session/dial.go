package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Dial connects to an address inside the machine, as net.Dial does there: "tcp", "udp" (each also with 4 or 6)
// and "unix". What it returns has a CloseWrite() error for half-close, as *net.TCPConn has. Of a
// network of datagrams each Read and Write is one datagram. Errors wrap a *net.OpError and the guest's error number. That a connection was reset is read as its end.
// ctx bounds the dialling alone.
func (s *Session) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := &agentproto.Dial{ID: s.lastID.Add(1), Network: network, Address: address}
	c, err := await(ctx, func() (*conn, error) { return s.dial(ctx, d) }, func(c *conn) { c.Close() })
	if err != nil {
		return nil, fmt.Errorf("in the guest: %w", &net.OpError{Op: "dial", Net: network, Addr: addr{network, address}, Err: err})
	}
	if d.Datagrams() {
		return newDatagramConn(c), nil
	}
	return c, nil
}

func (s *Session) dial(ctx context.Context, d *agentproto.Dial) (*conn, error) {
	return s.connect(ctx, d.ID, &agentproto.Request{Dial: d}, addr{d.Network, d.Address})
}

// connect sends a request that is answered with a connection.
func (s *Session) connect(ctx context.Context, id uint64, req *agentproto.Request, remote addr) (*conn, error) {
	out, err := s.open(&agentproto.Request{Attach: &agentproto.Attach{ID: id, Stream: agentproto.StreamDial}})
	if err != nil {
		return nil, err
	}
	in, err := s.open(req)
	if err != nil {
		s.drop(out)
		return nil, err
	}
	c := &conn{session: s, in: in, out: out, remote: remote}
	stop := context.AfterFunc(ctx, func() { in.SetDeadline(past()) })
	_, err = agentproto.ReadReply(in)
	if !stop() || err != nil {
		c.Close()
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, s.cause(ctx, err)
	}
	go c.watch()
	return c, nil
}

// conn is a connection that the agent relays. It has a stream for each direction, because
// a stream's half-close alone could not say both "all is sent" and "no more is wanted".
type conn struct {
	session *Session
	in, out *yamux.Stream
	remote  addr

	closed atomic.Bool
	close  sync.Once
	half   atomic.Bool // CloseWrite was called

	writeMu sync.Mutex // guards refused and out's write deadline
	refused bool       // the other end takes no more
}

// watch waits until the agent closes its end of out, because the connection takes no more.
func (c *conn) watch() {
	io.Copy(io.Discard, c.out)
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.refused = true
	c.out.SetWriteDeadline(past())
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	return n, c.opError("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, c.opError("write", net.ErrClosed)
	}
	if c.half.Load() {
		return 0, c.opError("write", unix.EPIPE)
	}
	n, err := c.out.Write(p)
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err != nil && (c.refused || c.half.Load()) {
		err = unix.EPIPE
	}
	return n, c.opError("write", err)
}

// opError says it as package net does.
func (c *conn) opError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		err = net.ErrClosed
	case err == io.EOF && c.session.mux.IsClosed():
		err = ErrAgentLost
	case err == io.EOF:
		return err
	case errors.Is(err, yamux.ErrTimeout):
		err = os.ErrDeadlineExceeded
	default:
		err = c.session.cause(context.Background(), err)
	}
	return &net.OpError{Op: op, Net: c.remote.network, Addr: c.remote, Err: err}
}

// CloseWrite tells the other end that no more comes.
func (c *conn) CloseWrite() error {
	if !c.half.Swap(true) {
		go c.out.Close() // may block when the guest reads nothing
	}
	return nil
}

// Close ends both directions. What was written before still arrives.
func (c *conn) Close() error {
	c.close.Do(func() {
		c.closed.Store(true)
		c.writeMu.Lock()
		c.session.drop(c.out)
		c.writeMu.Unlock()
		c.session.drop(c.in)
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return addr{c.remote.network, ""} }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.in.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	if c.refused {
		return nil // no Write waits any more
	}
	return c.out.SetWriteDeadline(t)
}

// addr is an address inside the machine.
type addr struct{ network, address string }

func (a addr) Network() string { return a.network }
func (a addr) String() string  { return a.address }

// datagramConn is a conn with datagrams in both directions.
type datagramConn struct {
	*conn

	readMu sync.Mutex // guards frames
	frames *bufio.Reader

	writeMu  sync.Mutex // guards what follows
	frame    []byte
	writeErr error // of a frame that was cut: what follows it could not be read
}

func newDatagramConn(c *conn) *datagramConn {
	return &datagramConn{
		conn: c, frames: bufio.NewReaderSize(c, agentproto.DatagramRoom), frame: make([]byte, 0, agentproto.DatagramRoom),
	}
}

func (d *datagramConn) Read(p []byte) (int, error) {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	return agentproto.ReadDatagram(d.frames, p)
}

func (d *datagramConn) Write(p []byte) (int, error) {
	if len(p) > agentproto.MaxDatagram {
		return 0, d.opError("write", unix.EMSGSIZE)
	}
	d.writeMu.Lock()
	defer d.writeMu.Unlock()
	if d.writeErr != nil {
		return 0, d.writeErr
	}
	d.frame = agentproto.AppendDatagram(d.frame[:0], p)
	n, err := d.conn.Write(d.frame)
	if err == nil {
		return len(p), nil
	}
	if n > 0 {
		d.writeErr = err
	}
	return 0, err
}
