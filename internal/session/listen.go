package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Listener accepts connections that are made inside the machine. It is a net.Listener.
type Listener struct {
	session *Session
	id      uint64
	stream  *yamux.Stream
	at      addr
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	close   sync.Once
}

// Listen listens at an address inside the machine, as net.Listen does there: "tcp" (also with 4 or 6) and "unix". When it
// returns, connections are accepted. ctx bounds the beginning alone.
func (s *Session) Listen(ctx context.Context, network, address string) (*Listener, error) {
	id := s.lastID.Add(1)
	stream, err := await(ctx, func() (*yamux.Stream, error) {
		stream, err := s.open(&agentproto.Request{Listen: &agentproto.Listen{ID: id, Network: network, Address: address}})
		if err != nil {
			return nil, err
		}
		if _, err := agentproto.ReadReply(stream); err != nil {
			s.drop(stream)
			return nil, s.cause(ctx, err)
		}
		return stream, nil
	}, s.drop)
	if err != nil {
		return nil, fmt.Errorf("listen at %s %s in the guest: %w", network, address, err)
	}
	l := &Listener{session: s, id: id, stream: stream, at: addr{network, address}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

// Accept waits for the next connection. What it returns is as of Dial.
func (l *Listener) Accept() (net.Conn, error) {
	a := &agentproto.Accept{ID: l.session.lastID.Add(1), Listener: l.id}
	c, err := await(l.ctx, func() (*conn, error) {
		return l.session.connect(l.ctx, a.ID, &agentproto.Request{Accept: a}, l.at)
	}, func(c *conn) { c.Close() })
	if errors.Is(err, context.Canceled) {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: l.at.network, Addr: l.at, Err: err}
	}
	return c, nil
}

// Close ends the listener and every Accept.
func (l *Listener) Close() error {
	l.close.Do(func() {
		l.cancel()
		l.session.drop(l.stream)
	})
	return nil
}

// Addr returns the address inside the machine.
func (l *Listener) Addr() net.Addr { return l.at }
