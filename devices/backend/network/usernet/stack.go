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
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// nic is the number of the stack's only interface.
const nic tcpip.NICID = 1

// gatewayMAC is the gateway's and the name server's address on the wire.
var gatewayMAC = [6]byte{0x02, 's', 't', 'i', 'l', 'e'}

// routerAddress is the gateway's own of the link, from which a router speaks (RFC 4861, 4.2).
var routerAddress = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: gatewayHost})

// Stack is a network without privileges. It implements network.Network. Its methods may be called concurrently.
type Stack struct {
	addresses Addresses
	resolver  netip.AddrPort
	restrict  bool
	deny      []netip.Prefix
	link      *link
	guestMAC  atomic.Pointer[[6]byte] // of the guest's last frame
	stack     *stack.Stack
	dhcp      dhcpServer
	router    router

	forwards []open
	conns    chan struct{} // a token for each TCP connection
	flows    chan struct{} // and for each UDP flow
	queries  chan struct{} // and for each name that is asked for

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards work's growth against Close
	work   sync.WaitGroup
}

// open is a port of the host that leads into the guest.
type open struct {
	io.Closer
	at netip.AddrPort
}

// New makes a network and listens for its forwards. The error says all of those that can't be had.
func New(c Config) (*Stack, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Stack{
		addresses: c.Addresses(), resolver: c.Resolver, restrict: c.Restrict, deny: c.Deny,
		conns: make(chan struct{}, maxConns), flows: make(chan struct{}, maxFlows), queries: make(chan struct{}, maxQueries),
	}
	search := SearchDomains()
	s.dhcp = dhcpServer{addresses: s.addresses, mac: gatewayMAC, search: search}
	s.router = router{addresses: s.addresses, mac: gatewayMAC, search: search}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.link = newLink(gatewayMAC, s.intercept)
	if err := s.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("user network: %w", err), s.Close())
	}
	if err := s.listen(c.Forwards); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// build makes the stack and its one interface.
func (s *Stack) build() error {
	networks := []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol}
	if s.addresses.Guest6.IsValid() {
		networks = append(networks, ipv6.NewProtocol)
	}
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   networks,
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
	sack, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	for _, option := range []tcpip.SettableTransportProtocolOption{&receive, &send, &sack, &wait} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return errors.New(err.String())
		}
	}
	if err := s.stack.CreateNIC(nic, s.link); err != nil {
		return errors.New(err.String())
	}
	for _, a := range s.addresses.own() {
		bits := s.addresses.Guest.Bits()
		if a.Is6() {
			bits = bits6
		}
		address := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(a.AsSlice()), PrefixLen: bits,
		}}
		if err := s.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return errors.New(err.String())
		}
	}
	// The guest's connections go to any address, and it is answered from there.
	if err := s.stack.SetPromiscuousMode(nic, true); err != nil {
		return errors.New(err.String())
	}
	if err := s.stack.SetSpoofing(nic, true); err != nil {
		return errors.New(err.String())
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s.stack, tcpBuffer, maxHandshakes, s.acceptTCP).HandlePacket)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s.stack, s.acceptUDP).HandlePacket)
	return nil
}

// Addresses returns what the guest is to use.
func (s *Stack) Addresses() Addresses { return s.addresses }

// Queues implements network.Network.
func (s *Stack) Queues() []network.Queue { return []network.Queue{s.link} }

// Offloads are what a Stack finishes, and can leave undone.
const Offloads = network.Csum | network.TSO4 | network.TSO6

// Offloads implements network.Network.
func (s *Stack) Offloads() network.Offload { return Offloads }

// SetOffloads implements network.Network.
func (s *Stack) SetOffloads(o network.Offload) error {
	s.link.offloads.Store(uint32(o))
	return nil
}

// SetActive implements network.Network.
func (s *Stack) SetActive(int) error { return nil }

// MTU implements network.Network.
func (s *Stack) MTU() int { return network.DefaultMTU }

// start runs f, if the stack is not being closed, while a token of that kind is its own.
func (s *Stack) start(tokens chan struct{}, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || !take(tokens) {
		return false
	}
	s.work.Go(func() {
		defer func() { <-tokens }()
		f()
	})
	return true
}

// Close ends forwards, connections and the stack. Further calls do nothing.
func (s *Stack) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	var errs []error
	for _, f := range s.forwards {
		if err := f.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.awaitWork()
	if s.stack != nil {
		s.stack.Destroy()
	}
	return errors.Join(errs...)
}

// awaitWork waits for all that start began. A guest that does not answer would hold a handshake up for minutes, so
// those are aborted, until none has begun meanwhile.
func (s *Stack) awaitWork() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
	}()
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		if s.stack != nil {
			s.stack.Close()
		}
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
	}
}

// host returns the address of the host that an address of the guest's network or beyond stands for.
func (s *Stack) host(a netip.Addr) (netip.Addr, bool) {
	to, ok := s.standsFor(a)
	return to, ok && !s.restrict && !s.denied(to)
}

// denied reports whether an address of the host is one that the guest is not to reach. Who denies this host means all of it.
func (s *Stack) denied(to netip.Addr) bool {
	return slices.ContainsFunc(s.deny, func(p netip.Prefix) bool {
		return p.Contains(to) || to.IsLoopback() && p.Overlaps(loopback) || to.IsLoopback() && p.Contains(netip.IPv6Loopback())
	})
}

// loopback are the addresses by which a host knows itself.
var loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

func (s *Stack) standsFor(a netip.Addr) (netip.Addr, bool) {
	switch {
	case a == s.addresses.Gateway:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	case a == s.addresses.Gateway6:
		return netip.IPv6Loopback(), true
	case s.addresses.Guest.Contains(a), s.addresses.Guest6.Contains(a), a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a == broadcast,
		a.Is6() && a.IsLinkLocalUnicast(), a.Is4In6():
		return a, false
	}
	return a, true
}

// broadcast is every host's.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// take takes a token, if there is one left.
func take(tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}:
		return true
	default:
		return false
	}
}

// own are the addresses of the network's own, of the gateway and the name server.
func (a *Addresses) own() []netip.Addr {
	own := []netip.Addr{a.Gateway, a.DNS}
	if a.Guest6.IsValid() {
		own = append(own, a.Gateway6, a.DNS6, routerAddress)
	}
	return own
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return ipv6.ProtocolNumber
	}
	return ipv4.ProtocolNumber
}

// addrOf returns an address of the stack's.
func addrOf(a tcpip.Address) netip.Addr {
	out, _ := netip.AddrFromSlice(a.AsSlice()) // of 4 or 16 bytes
	return out
}
