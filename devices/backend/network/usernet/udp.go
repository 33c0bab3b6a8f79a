package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
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
	to := netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
	serve := s.resolve
	if to != netip.AddrPortFrom(s.addresses.DNS, dnsPort) {
		host, ok := s.host(to.Addr())
		if !ok {
			return false
		}
		to = netip.AddrPortFrom(host, to.Port())
		serve = func(guest *gonet.UDPConn) { s.relayUDP(guest, to) }
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

// relayUDP passes datagrams on in both directions until none has come for a while.
func (s *Stack) relayUDP(guest *gonet.UDPConn, to netip.AddrPort) {
	host, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return
	}
	defer host.Close()
	f := newFlow(guest, host)
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
			_, _ = to.Write(buf[:n]) // a datagram may be lost
		case timedOut(err):
			if time.Since(time.Unix(0, f.last.Load())) >= udpIdle {
				return
			}
		case !errors.Is(err, unix.ECONNREFUSED): // that is one datagram's fate
			return
		}
	}
}
