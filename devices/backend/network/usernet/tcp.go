package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// acceptTCP is called on a goroutine of its own.
func (s *Stack) acceptTCP(r *tcp.ForwarderRequest) {
	if !s.start(s.conns, func() { s.connect(r) }) {
		r.Complete(true)
	}
}

// connect makes the host's side of a connection first: the guest is refused if the host is.
func (s *Stack) connect(r *tcp.ForwarderRequest) {
	id := r.ID()
	to := netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	host, err := s.dialTCP(to)
	if err != nil {
		r.Complete(!timedOut(err))
		return
	}
	var queue waiter.Queue
	endpoint, failure := r.CreateEndpoint(&queue)
	r.Complete(failure != nil)
	if failure != nil {
		reset(host)
		return
	}
	s.relay(endpoint, gonet.NewTCPConn(&queue, endpoint), host)
}

// timedOut tells whether nobody answered: then the guest gets no answer either.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// dialTCP connects the host to where the guest wants to.
func (s *Stack) dialTCP(to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, dialLimit)
	defer cancel()
	var dialer net.Dialer
	if s.nameServer(to.Addr()) {
		if to.Port() != dnsPort || s.restrict {
			return nil, errors.New("the name server has no other port")
		}
		to = s.resolvers()[0]
	} else {
		host, ok := s.host(to.Addr())
		if !ok {
			return nil, fmt.Errorf("%v is not for the guest", to)
		}
		to = netip.AddrPortFrom(host, to.Port())
	}
	c, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// listen opens the forwards' ports.
func (s *Stack) listen(forwards []Forward) error {
	var faults []error
	for _, f := range forwards {
		if err := s.listenOne(f); err != nil {
			faults = append(faults, fmt.Errorf("forward %v to the guest's port %d: %w%s", f.Port(), f.Guest, err, listenRemedy(err)))
		}
	}
	return errors.Join(faults...)
}

// listenRemedy says what can be done about an error of a forward's port.
func listenRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": end what listens there, or choose another port"
	case errors.Is(err, syscall.EACCES):
		return ": low ports are root's, choose a higher one"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this host does not have the address"
	}
	return ""
}

func (s *Stack) listenOne(f Forward) error {
	if f.UDP {
		u, err := s.listenUDP(f)
		if err != nil {
			return err
		}
		s.forwards = append(s.forwards, open{u.host, u.host.LocalAddr().(*net.UDPAddr).AddrPort()})
		s.work.Go(u.run)
		return nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(f.Host))
	if err != nil {
		return err
	}
	s.forwards = append(s.forwards, open{l, l.Addr().(*net.TCPAddr).AddrPort()})
	s.work.Go(func() { s.forward(l, f) })
	return nil
}

// Forwards returns the addresses of the host that lead into the guest, in Config's order.
func (s *Stack) Forwards() []netip.AddrPort {
	var out []netip.AddrPort
	for _, f := range s.forwards {
		out = append(out, f.at)
	}
	return out
}

// forward takes connections of the host until the listener is closed.
func (s *Stack) forward(l *net.TCPListener, f Forward) {
	for {
		host, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors, which passes
			continue
		}
		if !s.start(s.conns, func() { s.forwardOne(host, f) }) {
			reset(host)
		}
	}
}

// forwardOne connects a connection of the host to a port of the guest: to its address of the same kind, or else to the other.
func (s *Stack) forwardOne(host *net.TCPConn, f Forward) {
	ctx, cancel := context.WithTimeout(s.ctx, dialLimit)
	defer cancel()
	for _, to := range s.guest(f) {
		var queue waiter.Queue
		endpoint, guest, err := s.dialGuest(ctx, &queue, to)
		if err == nil {
			s.relay(endpoint, guest, host)
			return
		}
	}
	reset(host)
}

// guest returns the addresses of a forward in the guest, the best first.
func (s *Stack) guest(f Forward) []tcpip.FullAddress {
	var out []tcpip.FullAddress
	for _, p := range []netip.Prefix{s.addresses.Guest, s.addresses.Guest6} {
		if p.IsValid() {
			out = append(out, tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(p.Addr().AsSlice()), Port: f.Guest})
		}
	}
	if f.Host.Addr().Is6() {
		slices.Reverse(out)
	}
	return out
}

// networkOf returns the protocol of an address of the stack's.
func networkOf(a tcpip.Address) tcpip.NetworkProtocolNumber { return protocolOf(addrOf(a)) }

// dialGuest is gonet.DialContextTCP that gives the endpoint, too.
func (s *Stack) dialGuest(ctx context.Context, queue *waiter.Queue, to tcpip.FullAddress) (tcpip.Endpoint, *gonet.TCPConn, error) {
	endpoint, failure := s.stack.NewEndpoint(tcp.ProtocolNumber, networkOf(to.Addr), queue)
	if failure != nil {
		return nil, nil, errors.New(failure.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	failure = endpoint.Connect(to)
	if _, started := failure.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			failure = endpoint.LastError()
		case <-ctx.Done():
			endpoint.Abort()
			return nil, nil, ctx.Err()
		}
	}
	if failure != nil {
		endpoint.Close()
		return nil, nil, errors.New(failure.String())
	}
	return endpoint, gonet.NewTCPConn(queue, endpoint), nil
}

// reset ends a connection of the host as a refusal does.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // Close sends a reset then
	c.Close()
}

// relay joins the two connections until both directions have ended.
func (s *Stack) relay(endpoint tcpip.Endpoint, guest *gonet.TCPConn, host *net.TCPConn) {
	endpoint.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAlive), tcpip.KeepaliveIntervalOption(keepAlive/2)
	_ = endpoint.SetSockOpt(&idle) // a guest that is gone would keep the connection
	_ = endpoint.SetSockOpt(&interval)
	endpoint.SocketOptions().SetDelayOption(false)
	broken := func() {
		endpoint.Abort()
		reset(host)
	}
	defer context.AfterFunc(s.ctx, func() {
		if !unread(endpoint) {
			broken()
			return
		}
		limit := time.Now().Add(drainLimit)
		_, _ = guest.SetDeadline(limit), host.SetDeadline(limit)
	})()
	var both sync.WaitGroup
	both.Go(func() { s.transfer(guest, host, broken) })
	both.Go(func() { s.transfer(host, guest, broken) })
	both.Wait()
	host.Close()
	s.awaitTaken(endpoint)
	guest.Close()
}

// awaitTaken waits until the guest has acknowledged all that was sent, and the end: what it has not is memory that
// only the connection's token bounds.
func (s *Stack) awaitTaken(endpoint tcpip.Endpoint) {
	for pause := time.Millisecond; s.ctx.Err() == nil; pause = min(2*pause, time.Second) {
		switch tcp.EndpointState(endpoint.State()) {
		case tcp.StateFinWait2, tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
			return
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(pause):
		}
	}
}

// drainLimit is how long what the guest had sent before its end may take to reach the host.
const drainLimit = time.Second

// unread reports whether the guest sent something, or an end, that the host has not got yet.
func unread(endpoint tcpip.Endpoint) bool {
	n, err := endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return err == nil && n > 0 || tcp.EndpointState(endpoint.State()) == tcp.StateCloseWait
}

// half is a connection whose directions end one by one.
type half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// transfer copies one direction. Its end is passed on; where it breaks, or the network ends, broken ends both.
func (s *Stack) transfer(to, from half, broken func()) {
	// Plain readers and writers: splice(2) is not for these.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, relayBuffer))
	if err == nil {
		err = s.ctx.Err() // an aborted endpoint looks like one at its end
	}
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		broken()
	}
}
