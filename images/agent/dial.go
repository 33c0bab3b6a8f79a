package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// dialLimit is how long a connection to an address in this machine may take.
const dialLimit = time.Minute

// relayBuffer is the piece in which a connection is copied, in bytes.
const relayBuffer = 64 << 10

// dial connects to an address and relays. out is the request's stream.
func (s *server) dial(out *yamux.Stream, d *agentproto.Dial) {
	dialer := net.Dialer{Timeout: dialLimit}
	s.connect(out, d.ID, d.Datagrams(), func(ctx context.Context) (net.Conn, error) {
		return dialer.DialContext(ctx, d.Network, d.Address)
	})
}

// connect relays the connection that open returns, until both directions have ended or the host gives it up. out is
// the request's stream.
func (s *server) connect(out *yamux.Stream, id uint64, datagrams bool, open func(context.Context) (net.Conn, error)) {
	in, err := s.claim(id, agentproto.StreamDial)
	if err != nil {
		refuse(out, agentproto.Failed, err)
		return
	}
	defer in.Close()
	// The host closes its end of out when it wants no more.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer s.machine.catch()
		io.Copy(io.Discard, out)
		out.SetWriteDeadline(past())
		cancel()
	}()
	conn, err := open(ctx)
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // the host knows what was dialled
	}
	if err != nil {
		refuse(out, agentproto.Failed, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { abandon(conn, in) })()
	answer(out, nil)
	r := relay{conn: conn, in: in, out: out, catch: s.machine.catch}
	if datagrams {
		r.run(r.receiveDatagrams, r.sendDatagrams)
		return
	}
	r.run(r.receive, r.send)
}

// abandon ends what conn receives, and lets it have what the host had sent before it gave the connection up.
func abandon(conn net.Conn, in *yamux.Stream) {
	end := time.Now().Add(dialLimit)
	in.SetReadDeadline(end)
	conn.SetWriteDeadline(end)
	conn.SetReadDeadline(past())
}

// relay joins a connection and the host's two streams.
type relay struct {
	conn    net.Conn
	in, out *yamux.Stream // from and to the host
	catch   func()
}

func (r *relay) run(receive, send func()) {
	var both sync.WaitGroup
	defer both.Wait()
	for _, f := range []func(){receive, send} {
		both.Go(func() {
			defer r.catch()
			f()
		})
	}
}

// send copies what the host sends to the connection. That the host has sent all is passed on; that the connection
// takes no more is told the host.
func (r *relay) send() {
	io.CopyBuffer(struct{ io.Writer }{r.conn}, struct{ io.Reader }{r.in}, make([]byte, relayBuffer))
	r.in.Close()
	if half, ok := r.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// receive copies what the connection receives to the host.
func (r *relay) receive() {
	io.CopyBuffer(struct{ io.Writer }{r.out}, struct{ io.Reader }{r.conn}, make([]byte, relayBuffer))
	r.out.Close()
}

func (r *relay) sendDatagrams() {
	frames := bufio.NewReaderSize(r.in, agentproto.DatagramRoom)
	buf := make([]byte, agentproto.MaxDatagram)
	for {
		n, err := agentproto.ReadDatagram(frames, buf)
		if err != nil {
			break
		}
		if _, err := r.conn.Write(buf[:n]); lasting(err) {
			break
		}
	}
	r.in.Close()
	r.conn.Close() // there is no half-close to pass on
}

func (r *relay) receiveDatagrams() {
	buf, frame := make([]byte, agentproto.MaxDatagram), make([]byte, agentproto.DatagramRoom)
	for {
		n, err := r.conn.Read(buf)
		if lasting(err) {
			break
		}
		if err != nil {
			continue
		}
		if _, err := r.out.Write(agentproto.AppendDatagram(frame[:0], buf[:n])); err != nil {
			break
		}
	}
	r.out.Close()
}

// lasting tells whether a datagram socket's error is more than one datagram's fate.
func lasting(err error) bool {
	return err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EMSGSIZE)
}
