package usernet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const dnsPort = 53

// maxDatagram is the size of the largest datagram, in bytes.
const maxDatagram = 65535

// acceptUDP starts a flow for a pair of ports that has none. What returns false is answered with "port unreachable".
func (s *Stack) acceptUDP(r *udp.ForwarderRequest) bool {
	id := r.ID()
	from, to := netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	serve := s.resolve
	if s.restrict || !s.nameServer(to.Addr()) || to.Port() != dnsPort {
		host, ok := s.host(to.Addr())
		if !ok {
			return false
		}
		tell := func(err error) { s.unreachable(from, to, err) }
		serve = func(guest *gonet.UDPConn) { s.relayUDP(guest, netip.AddrPortFrom(host, to.Port()), tell) }
	}
	var queue waiter.Queue
	endpoint, failure := r.CreateEndpoint(&queue)
	if failure != nil {
		return false
	}
	endpoint.SocketOptions().SetReceiveBufferSize(udpBuffer, false)
	guest := gonet.NewUDPConn(&queue, endpoint)
	if !s.start(s.flows, func() {
		defer guest.Close()
		serve(guest)
	}) {
		guest.Close() // the datagram is lost
	}
	return true
}

// relayUDP passes datagrams on in both directions until none has come for a while. It tells why one can't be delivered.
func (s *Stack) relayUDP(guest *gonet.UDPConn, to netip.AddrPort, tell func(error)) {
	host, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		tell(err)
		return
	}
	defer host.Close()
	f := newFlow(guest, host)
	f.tell = tell
	defer context.AfterFunc(s.ctx, f.end)()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.passOn(host, guest)
	}()
	f.passOn(guest, host)
	<-done
}

// flow is a pair of UDP ports that are joined.
type flow struct {
	ends  []net.Conn   // that are its own
	last  atomic.Int64 // when the last datagram came, in ns since 1970
	ended atomic.Bool
	tell  func(error) // why a datagram was not delivered, nil if nobody is to know
}

func newFlow(ends ...net.Conn) *flow {
	f := &flow{ends: ends}
	f.touch()
	return f
}

// touch notes that a datagram has come.
func (f *flow) touch() { f.last.Store(time.Now().UnixNano()) }

// end ends both directions.
func (f *flow) end() {
	f.ended.Store(true)
	for _, c := range f.ends {
		_ = c.SetDeadline(time.Unix(1, 0)) // fails only when closed
	}
}

// passOn copies datagrams until there was none in either direction for udpIdle.
func (f *flow) passOn(to io.Writer, from net.Conn) {
	defer f.end()
	buf := make([]byte, maxDatagram)
	for {
		_ = from.SetReadDeadline(time.Unix(0, f.last.Load()).Add(udpIdle))
		if f.ended.Load() {
			return
		}
		n, err := from.Read(buf)
		switch {
		case err == nil:
			f.touch()
			f.write(to, buf[:n])
		case timedOut(err):
			if time.Since(time.Unix(0, f.last.Load())) >= udpIdle {
				return
			}
		case undelivered(err): // that is one datagram's fate
			f.report(err)
		default:
			return
		}
	}
}

// write sends a datagram, which may be lost. An error that an earlier one has met is told in its place, so it is sent again.
func (f *flow) write(to io.Writer, datagram []byte) {
	for range 2 {
		_, err := to.Write(datagram)
		if !undelivered(err) {
			return
		}
		f.report(err)
	}
}

// report tells why a datagram was not delivered.
func (f *flow) report(err error) {
	if f.tell != nil {
		f.tell(err)
	}
}
