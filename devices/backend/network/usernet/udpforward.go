package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// udpForward leads datagrams to a port of the host into the guest, and the guest's answers back to who sent them.
type udpForward struct {
	s     *Stack
	host  *net.UDPConn
	guest tcpip.FullAddress

	mu    sync.Mutex
	peers map[netip.AddrPort]*udpPeer
}

// udpPeer is a sender on the host. The guest knows each by a port of the gateway.
type udpPeer struct {
	guest *gonet.UDPConn
	last  atomic.Int64 // when the last datagram came, in ns since 1970
}

func (s *Stack) listenUDP(f Forward) (*udpForward, error) {
	host, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.Host))
	if err != nil {
		return nil, err
	}
	return &udpForward{s: s, host: host, guest: s.guest(f.Guest), peers: make(map[netip.AddrPort]*udpPeer)}, nil
}

// run takes datagrams of the host until the port is closed.
func (f *udpForward) run() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := f.host.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of memory, which passes
			continue
		}
		if p := f.peer(from); p != nil {
			p.last.Store(time.Now().UnixNano())
			_, _ = p.guest.Write(buf[:n]) // a datagram may be lost
		}
	}
}

// peer returns the one with that address, nil if there are too many.
func (f *udpForward) peer(from netip.AddrPort) *udpPeer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.peers[from]; p != nil {
		return p
	}
	guest, err := gonet.DialUDP(f.s.stack, nil, &f.guest, ipv4.ProtocolNumber)
	if err != nil {
		return nil
	}
	p := &udpPeer{guest: guest}
	p.last.Store(time.Now().UnixNano())
	if !f.s.start(f.s.flows, func() { f.answer(p, from) }) {
		guest.Close()
		return nil
	}
	f.peers[from] = p
	return p
}

// answer passes the guest's answers on until there was no datagram in either direction for udpIdle.
func (f *udpForward) answer(p *udpPeer, to netip.AddrPort) {
	defer p.guest.Close()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.peers, to)
	}()
	defer context.AfterFunc(f.s.ctx, func() { _ = p.guest.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, maxDatagram)
	for {
		_ = p.guest.SetReadDeadline(time.Unix(0, p.last.Load()).Add(udpIdle)) // fails only when closed
		if f.s.ctx.Err() != nil {
			return
		}
		n, err := p.guest.Read(buf)
		switch {
		case err == nil:
			p.last.Store(time.Now().UnixNano())
			_, _ = f.host.WriteToUDPAddrPort(buf[:n], to)
		case !timedOut(err) || time.Since(time.Unix(0, p.last.Load())) >= udpIdle:
			return
		}
	}
}
