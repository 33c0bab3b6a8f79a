package agent

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// listen listens until the host closes its end of the stream.
func (s *server) listen(stream *yamux.Stream, l *agentproto.Listen) {
	listener, err := net.Listen(l.Network, l.Address)
	if err != nil {
		refuse(stream, agentproto.Failed, err)
		return
	}
	defer listener.Close()
	s.mu.Lock()
	s.listeners[l.ID] = listener
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l.ID)
	}()
	answer(stream, nil)
	io.Copy(io.Discard, stream)
}

// accept waits for a connection and relays it. out is the request's stream.
func (s *server) accept(out *yamux.Stream, a *agentproto.Accept) {
	s.connect(out, a.ID, false, func(context.Context) (net.Conn, error) {
		s.mu.Lock()
		l := s.listeners[a.Listener]
		s.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("accept: no listener %d", a.Listener)
		}
		return l.Accept()
	})
}
