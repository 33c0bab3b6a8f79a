package usernet

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// limit ends a test that hangs. No test depends on its length.
const limit = time.Minute

var guestMAC = [6]byte{0x02, 0, 0, 0, 0, 1}

// guest is the other end of the wire: a second stack, in the guest's place.
type guest struct {
	t     testing.TB
	s     *Stack
	stack *stack.Stack
}

// newGuest makes a network and a guest in it. offloads is what either end may leave undone.
func newGuest(t testing.TB, c Config, offloads network.Offload) *guest {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, s: s}
	wire := newLink(guestMAC, func([]byte) bool { return false })
	wire.offloads.Store(uint32(offloads))
	if err := s.SetOffloads(offloads); err != nil {
		t.Fatal(err)
	}
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := g.stack.CreateNIC(nic, wire); err != nil {
		t.Fatal(err)
	}
	a := c.Addresses()
	var routes []tcpip.Route
	for gateway, guest := range map[netip.Addr]netip.Prefix{a.Gateway: a.Guest, a.Gateway6: a.Guest6} {
		if !guest.IsValid() {
			continue
		}
		own := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(guest.Addr().AsSlice()), PrefixLen: guest.Bits()}
		if err := g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocolOf(gateway), AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
		all := header.IPv4EmptySubnet
		if gateway.Is6() {
			all = header.IPv6EmptySubnet
		}
		routes = append([]tcpip.Route{{Destination: own.Subnet(), NIC: nic}}, routes...)
		routes = append(routes, tcpip.Route{Destination: all, Gateway: tcpip.AddrFromSlice(gateway.AsSlice()), NIC: nic})
	}
	g.stack.SetRouteTable(routes)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	pump := func(to, from network.Queue) {
		frame := make([]byte, network.MaxFrame)
		for ctx.Err() == nil {
			if n, err := from.Receive(frame, true); err == nil {
				to.Send([][]byte{frame[:5], frame[5:n]})
			}
		}
		done <- struct{}{}
	}
	go pump(s.link, wire)
	go pump(wire, s.link)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		g.stack.Destroy()
		cancel()
		wire.Interrupt()
		s.link.Interrupt()
		<-done
		<-done
	})
	return g
}

// address is one of the host's as the guest sees it.
func (g *guest) address(port int) tcpip.FullAddress {
	return full(netip.AddrPortFrom(g.s.addresses.Gateway, uint16(port)))
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func (g *guest) dial(to tcpip.FullAddress) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), limit)
	defer cancel()
	c, err := gonet.DialContextTCP(ctx, g.stack, to, networkOf(to.Addr))
	if err == nil {
		c.SetDeadline(time.Now().Add(limit))
	}
	return c, err
}

func (g *guest) dialUDP(to tcpip.FullAddress) *gonet.UDPConn {
	g.t.Helper()
	c, err := gonet.DialUDP(g.stack, nil, &to, networkOf(to.Addr))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c
}

// serve listens on the host, and calls handle with each connection. It returns the port.
func serve(t testing.TB, handle func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func checksumOf(b []byte) uint16 { return checksum.Checksum(b, 0) }

// destination returns where a frame with an IP packet goes.
func destination(frame []byte) (netip.Addr, bool) {
	if len(frame) >= network.EthernetSize+header.IPv6MinimumSize && header.Ethernet(frame).Type() == header.IPv6ProtocolNumber {
		return netip.AddrFrom16(header.IPv6(frame[network.EthernetSize:]).DestinationAddress().As16()), true
	}
	if len(frame) < network.EthernetSize+header.IPv4MinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4(header.IPv4(frame[network.EthernetSize:]).DestinationAddress().As4()), true
}
