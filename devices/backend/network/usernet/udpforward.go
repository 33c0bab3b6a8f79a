package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// udpForward leads datagrams to a port of the host into the guest, and the guest's answers back to who sent them.
type udpForward struct {
	s     *Stack
	host  *net.UDPConn
	guest tcpip.FullAddress

	mu    sync.Mutex
	peers map[netip.AddrPort]*udpPeer
}

// udpPeer is a sender on the host. The guest knows each by a port of the gateway. It writes what the guest answers.
type udpPeer struct {
	*flow
	guest *gonet.UDPConn
	host  *net.UDPConn // the forward's
	at    netip.AddrPort
}

func (p *udpPeer) Write(datagram []byte) (int, error) {
	return p.host.WriteToUDPAddrPort(datagram, p.at)
}

func (s *Stack) listenUDP(f Forward) (*udpForward, error) {
	host, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.Host))
	if err != nil {
		return nil, err
	}
	return &udpForward{s: s, host: host, guest: s.guest(f)[0], peers: make(map[netip.AddrPort]*udpPeer)}, nil
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
			p.touch()
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
	guest, err := gonet.DialUDP(f.s.stack, nil, &f.guest, networkOf(f.guest.Addr))
	if err != nil {
		return nil
	}
	p := &udpPeer{newFlow(guest), guest, f.host, from}
	if !f.s.start(f.s.flows, func() { f.answer(p) }) {
		guest.Close()
		return nil
	}
	f.peers[from] = p
	return p
}

// answer passes the guest's answers on until there was no datagram in either direction for udpIdle.
func (f *udpForward) answer(p *udpPeer) {
	defer p.guest.Close()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.peers, p.at)
	}()
	defer context.AfterFunc(f.s.ctx, p.end)()
	p.passOn(p, p.guest)
}
