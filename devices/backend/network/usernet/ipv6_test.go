package usernet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// echo listens on an address of the host, and sends back what it gets. It returns its port.
func echo(t *testing.T, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
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
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// roundTrip sends data by a connection, and wants it back.
func roundTrip(t *testing.T, c interface {
	net.Conn
	CloseWrite() error
}, data []byte) {
	t.Helper()
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(data), err)
	}
}

// TestIPv6 reaches this host's ::1 by the gateway, with frames of any kind.
func TestIPv6(t *testing.T) {
	port := echo(t, "[::1]:0")
	for name, offloads := range map[string]network.Offload{"plain": 0, "IPv4 alone": network.Csum | network.TSO4, "all": Offloads} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, Config{}, offloads)
			c, err := g.dial(full(netip.AddrPortFrom(g.s.addresses.Gateway6, uint16(port))))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			roundTrip(t, c, random(2<<20))
		})
	}
}

// TestIPv6Refused: no other address of this host or of the network leads anywhere, nor does any where IPv6 is left out.
func TestIPv6Refused(t *testing.T) {
	port := uint16(echo(t, "[::1]:0"))
	g := newGuest(t, Config{}, Offloads)
	for name, to := range map[string]netip.AddrPort{
		"closed port":  netip.AddrPortFrom(g.s.addresses.Gateway6, 1),
		"name server":  netip.AddrPortFrom(g.s.addresses.DNS6, port),
		"neighbour":    netip.AddrPortFrom(netip.MustParseAddr("fd73:7469:6c65::77"), port),
		"this network": netip.MustParseAddrPort("10.0.2.77:80"),
	} {
		if c, err := g.dial(full(to)); err == nil {
			c.Close()
			t.Errorf("%s: connected to %v", name, to)
		}
	}
	for _, text := range []string{"::1", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.1", "fd73:7469:6c65::77"} {
		if a, ok := g.s.host(netip.MustParseAddr(text)); ok {
			t.Errorf("%s leads to %v", text, a)
		}
	}
	without, err := New(Config{NoIPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if a := without.Addresses(); a.Guest6.IsValid() || a.Gateway6.IsValid() || a.DNS6.IsValid() {
		t.Errorf("%+v without IPv6", a)
	}
}

// TestForwardIPv6: an IPv6 address of the host leads to the guest's, and to the other where nobody serves that, and so does IPv4.
func TestForwardIPv6(t *testing.T) {
	hosts := []netip.AddrPort{netip.MustParseAddrPort("[::1]:0"), netip.MustParseAddrPort("127.0.0.1:0")}
	g := newGuest(t, Config{Forwards: []Forward{
		{Host: hosts[0], Guest: 22}, {Host: hosts[0], Guest: 23}, {Host: hosts[1], Guest: 22}, {Host: hosts[0], Guest: 53, UDP: true},
	}}, Offloads)
	serveGuest := func(a netip.Prefix, port uint16) {
		at := full(netip.AddrPortFrom(a.Addr(), port))
		l, err := gonet.ListenTCP(g.stack, at, networkOf(at.Addr))
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
					io.WriteString(c, c.LocalAddr().String())
					c.Close()
				}()
			}
		}()
	}
	serveGuest(g.s.addresses.Guest6, 22)
	serveGuest(g.s.addresses.Guest, 23)
	for i, want := range []string{"[fd73:7469:6c65::f]:22", "10.0.2.15:23", "[fd73:7469:6c65::f]:22"} {
		c, err := net.Dial("tcp", g.s.Forwards()[i].String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("forward %d: %q, %v; want %s", i, got, err, want)
		}
		c.Close()
	}
	local := full(netip.AddrPortFrom(g.s.addresses.Guest6.Addr(), 53))
	server, err := gonet.DialUDP(g.stack, &local, nil, ipv6.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c, err := net.Dial("udp", g.s.Forwards()[3].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	buf := make([]byte, 100)
	if n, from, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
}

// TestUDPUnreachable: a datagram that the host can't deliver is answered, and one that comes after it is sent.
func TestUDPUnreachable(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(host, func(t *testing.T) {
			server, err := net.ListenPacket("udp", host)
			if err != nil {
				t.Fatal(err)
			}
			at := server.LocalAddr().(*net.UDPAddr).AddrPort()
			server.Close()
			g := newGuest(t, Config{}, Offloads)
			to := g.address(int(at.Port()))
			if at.Addr().Is6() {
				to = full(netip.AddrPortFrom(g.s.addresses.Gateway6, at.Port()))
			}
			c := g.dialUDP(to)
			if _, err := c.Write([]byte("lost")); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(limit); ; { // the guest's stack wakes nobody who reads
				c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				_, err := c.Read(make([]byte, 1))
				if err != nil && strings.Contains(err.Error(), "refused") {
					break
				}
				if !timedOut(err) || time.Now().After(end) {
					t.Fatalf("read: %v, want a refusal", err)
				}
			}
			if server, err = net.ListenPacket("udp", at.String()); err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if _, err := c.Write([]byte("arrives")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "arrives" {
				t.Errorf("%q, %v", buf[:n], err)
			}
		})
	}
}

// TestUnreachableCodes: the guest's socket gets the error of the host's.
func TestUnreachableCodes(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.ECONNREFUSED: true, syscall.EHOSTUNREACH: true, syscall.ENETUNREACH: true, syscall.EPERM: true,
		errors.New("other"): false, net.ErrClosed: false, nil: false,
	} {
		if undelivered(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
	from, to := netip.MustParseAddrPort("10.0.2.15:1000"), netip.MustParseAddrPort("192.0.2.1:53")
	frame := unreachableFrame(guestMAC, from, to, header.ICMPv4HostUnreachable, 0)
	ip := header.IPv4(frame[network.EthernetSize:])
	icmp := header.ICMPv4(ip.Payload())
	if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || ip.SourceAddress() != tcpip.AddrFrom4(to.Addr().As4()) ||
		icmp.Type() != header.ICMPv4DstUnreachable || icmp.Code() != header.ICMPv4HostUnreachable || header.ICMPv4Checksum(icmp, 0) != icmp.Checksum() {
		t.Errorf("frame %x", frame)
	}
	quoted := header.IPv4(icmp.Payload())
	if port := header.UDP(quoted.Payload()).SourcePort(); port != from.Port() || quoted.SourceAddress() != tcpip.AddrFrom4(from.Addr().As4()) {
		t.Errorf("frame %x quotes port %d", frame, port)
	}
}

// solicitation is a frame of the guest's with an ICMPv6 message.
func solicitation(to netip.Addr, message []byte) []byte {
	return icmp6Frame(guestMAC, [6]byte{0x33, 0x33}, netip.IPv6Unspecified(), to, ndpHopLimit, message)
}

// TestRouter reads what the guest is told of the network.
func TestRouter(t *testing.T) {
	r := router{addresses: (&Config{}).Addresses(), mac: gatewayMAC, search: []string{"example.org", "corp.example"}}
	reply, drop := r.answer(solicitation(netip.IPv6LinkLocalAllRouters(), make([]byte, 0, 8)[:8:8]))
	if reply != nil || drop {
		t.Errorf("an unknown message: %x, %v", reply, drop)
	}
	ask := append([]byte{byte(header.ICMPv6RouterSolicit)}, make([]byte, 7)...)
	reply, drop = r.answer(solicitation(netip.IPv6LinkLocalAllRouters(), ask))
	if !drop || len(reply) < network.EthernetSize+header.IPv6MinimumSize {
		t.Fatalf("%x, %v", reply, drop)
	}
	ip := header.IPv6(reply[network.EthernetSize:])
	message := header.ICMPv6(ip.Payload())
	if !ip.IsValid(len(ip)) || ip.HopLimit() != ndpHopLimit || message.Type() != header.ICMPv6RouterAdvert ||
		header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: message, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()}) != message.Checksum() {
		t.Errorf("frame %x", reply)
	}
	options, err := header.NDPRouterAdvert(message.MessageBody()).Options().Iter(true)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for {
		option, done, err := options.Next()
		if err != nil {
			t.Fatal(err)
		}
		if done {
			break
		}
		switch o := option.(type) {
		case header.NDPPrefixInformation:
			seen = append(seen, o.Subnet().String())
		case header.NDPRecursiveDNSServer:
			addresses, _ := o.Addresses()
			seen = append(seen, addresses[0].String())
		case header.NDPDNSSearchList:
			names, _ := o.DomainNames()
			seen = append(seen, names...)
		}
	}
	if want := []string{"fd73:7469:6c65::/64", "fd73:7469:6c65::3", "example.org", "corp.example"}; !slices.Equal(seen, want) {
		t.Errorf("options %q, want %q", seen, want)
	}
}

// TestNeighbours: the gateway and the name server have addresses, others are free: the guest may take any.
func TestNeighbours(t *testing.T) {
	r := router{addresses: (&Config{}).Addresses()}
	for text, drop := range map[string]bool{
		"fd73:7469:6c65::2": false, "fd73:7469:6c65::3": false, "fe80::2": false, "fd73:7469:6c65::f": true, "fe80::1": true, "2001:db8::1": true,
	} {
		target := netip.MustParseAddr(text)
		ask := append([]byte{byte(header.ICMPv6NeighborSolicit), 7: 0}, target.AsSlice()...)
		if _, got := r.answer(solicitation(netip.MustParseAddr("ff02::1:ff00:2"), ask)); got != drop {
			t.Errorf("a question for %v: kept from the stack %v", target, got)
		}
		ping := []byte{byte(header.ICMPv6EchoRequest), 7: 0}
		if _, got := r.answer(solicitation(target, ping)); got != drop {
			t.Errorf("a ping to %v: kept from the stack %v", target, got)
		}
	}
	whole := solicitation(netip.IPv6Unspecified(), []byte{byte(header.ICMPv6NeighborSolicit), 30: 0})
	for n := range whole {
		reply, drop := r.answer(whole[:n])
		if message := n - network.EthernetSize - header.IPv6MinimumSize; reply != nil || drop != (message >= header.ICMPv6HeaderSize) {
			t.Errorf("%d bytes of a message: %x, %v", message, reply, drop)
		}
	}
}

func TestSearchDomains(t *testing.T) {
	long := strings.Repeat("a", 64)
	for text, want := range map[string][]string{
		"": nil, "nameserver 192.0.2.1\n": nil,
		"search a.example b.example.\n":                    {"a.example", "b.example"},
		"search\ta.example\n":                              {"a.example"},
		"  domain a.example\nsearch b.example c.example\n": {"b.example", "c.example"},
		"search . a..b " + long + " ok\n":                  {"ok"},
		"search a b c d e f g h\n":                         {"a", "b", "c", "d", "e", "f"},
		"search b.example c.example\ndomain a.example x\n": {"a.example"},
	} {
		if got := parseSearch(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestDHCPSearch: a client learns the domains, too.
func TestDHCPSearch(t *testing.T) {
	d := dhcpServer{addresses: (&Config{}).Addresses(), mac: gatewayMAC, search: []string{"a.example", "b"}}
	reply := d.reply(&dhcpMessage{}, dhcpOffer, d.addresses.Guest.Addr())
	for _, want := range [][]byte{
		append([]byte{optionDomain, 9}, "a.example"...), append([]byte{optionSearch, 14}, "\x01a\x07example\x00\x01b\x00"...),
	} {
		if !bytes.Contains(reply, want) {
			t.Errorf("%x lacks %x", reply, want)
		}
	}
	if got := binary.BigEndian.Uint16(reply[12:]); got != uint16(ipv4.ProtocolNumber) {
		t.Errorf("protocol %#x", got)
	}
}

// TestDefaults: a guest's cards have networks of their own.
func TestDefaults(t *testing.T) {
	first, first6 := Default(0)
	second, second6 := Default(1)
	if first.String() != "10.0.2.0/24" || second.String() != "10.0.3.0/24" || first6.String() != "fd73:7469:6c65::/64" || second6.String() != "fd73:7469:6c65:1::/64" {
		t.Errorf("%v %v %v %v", first, second, first6, second6)
	}
	a, b := &Config{}, &Config{CIDR: second, CIDR6: second6}
	if !a.Overlaps(a) || a.Overlaps(b) || !b.Overlaps(&Config{CIDR: netip.MustParsePrefix("10.0.3.128/25"), NoIPv6: true}) {
		t.Error("Overlaps")
	}
}
