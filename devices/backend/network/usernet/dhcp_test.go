package usernet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// clientFrame makes a DHCP client's message.
func clientFrame(kind byte, options ...byte) []byte {
	b := make([]byte, dhcpFixed)
	b[0], b[1], b[2] = dhcpRequestOp, 1, 6
	copy(b[4:], "xid!")
	copy(b[28:], guestMAC[:])
	b = binary.BigEndian.AppendUint32(b, dhcpCookie)
	b = append(b, optionPad, optionType, 1, kind)
	b = append(append(b, options...), optionEnd)
	return udpFrame(guestMAC, [6]byte{255, 255, 255, 255, 255, 255}, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), b)
}

func TestDHCP(t *testing.T) {
	c := Config{CIDR: netip.MustParsePrefix("192.168.5.0/24")}
	d := dhcpServer{addresses: c.Addresses(), mac: gatewayMAC}
	asked := []byte{optionAsked, 4, 192, 168, 5, 15}
	ours := []byte{optionServer, 4, 192, 168, 5, 2}
	for name, test := range map[string]struct {
		frame []byte
		kind  byte // 0 for no answer
		yours string
	}{
		"discover":       {clientFrame(dhcpDiscover), dhcpOffer, "192.168.5.15"},
		"request":        {clientFrame(dhcpRequest, append(asked, ours...)...), dhcpAck, "192.168.5.15"},
		"another":        {clientFrame(dhcpRequest, optionAsked, 4, 10, 0, 0, 1), dhcpNak, "0.0.0.0"},
		"another server": {clientFrame(dhcpRequest, append(asked, optionServer, 4, 192, 168, 5, 9)...), 0, ""},
		"inform":         {clientFrame(dhcpInform), dhcpAck, "0.0.0.0"},
		"release":        {clientFrame(7), 0, ""},
		"cut option":     {clientFrame(dhcpDiscover, optionAsked, 200), 0, ""},
		"short":          {clientFrame(dhcpDiscover)[:100], 0, ""},
		"nothing":        {nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reply := d.answer(test.frame)
			if test.kind == 0 {
				if reply != nil {
					t.Errorf("answered with %x", reply)
				}
				return
			}
			payload, ok := udpPayload(reply, dhcpClientPort)
			if !ok {
				t.Fatalf("answer %x", reply)
			}
			if got := netip.AddrFrom4([4]byte(payload[16:])); got.String() != test.yours {
				t.Errorf("address %v, want %s", got, test.yours)
			}
			if string(payload[4:8]) != "xid!" || !bytes.Equal(reply[:6], guestMAC[:]) {
				t.Errorf("answer of another question: %x", reply)
			}
			if !bytes.Contains(payload, []byte{optionType, 1, test.kind}) {
				t.Errorf("no message of type %d: %x", test.kind, payload)
			}
			ip := header.IPv4(reply[network.EthernetSize:])
			if udp := header.UDP(ip.Payload()); !ip.IsChecksumValid() ||
				!udp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksumOf(udp.Payload())) {
				t.Error("a checksum is wrong")
			}
			if test.kind == dhcpAck && !bytes.Contains(payload, []byte{optionDNS, 4, 192, 168, 5, 3}) {
				t.Error("no name server")
			}
		})
	}
}

// TestWire gives a whole network frames as a guest's card does: DHCP is answered, others' pings are not.
func TestWire(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := make([]byte, network.MaxFrame)
	send := func(frame []byte) {
		s.link.Send([][]byte{make([]byte, network.HeaderSize), frame})
	}
	send(clientFrame(dhcpDiscover))
	if n, err := s.link.Receive(out, true); err != nil || n < network.MinFrame+dhcpMinimum {
		t.Fatalf("%d bytes, %v", n, err)
	}
	arp := append(append(bytes.Repeat([]byte{255}, 6), guestMAC[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	arp = append(append(append(append(arp, guestMAC[:]...), 10, 0, 2, 15), make([]byte, 6)...), 10, 0, 2, 2)
	send(arp)
	if n, err := s.link.Receive(out, true); err != nil || !bytes.Equal(out[network.HeaderSize:network.HeaderSize+6], guestMAC[:]) {
		t.Fatalf("ARP: %d bytes, %v", n, err)
	}
	ping := func(to byte) []byte {
		f := udpFrame(guestMAC, gatewayMAC, netip.MustParseAddrPort("10.0.2.15:0"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, to}), 0), make([]byte, 40))
		ip := header.IPv4(f[network.EthernetSize:])
		ip[9] = uint8(header.ICMPv4ProtocolNumber)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		m := header.ICMPv4(ip.Payload())
		clear(m)
		m.SetType(header.ICMPv4Echo)
		m.SetChecksum(header.ICMPv4Checksum(m[:header.ICMPv4MinimumSize], checksumOf(m[header.ICMPv4MinimumSize:])))
		return f
	}
	send(ping(77)) // nobody
	send(ping(2))
	if n, err := s.link.Receive(out, true); err != nil || header.IPv4(out[network.MinFrame:n]).SourceAddress().String() != "10.0.2.2" {
		t.Errorf("a ping is answered by %x, %v", out[:n], err)
	}
	s.link.Interrupt()
	if n, err := s.link.Receive(out, true); err != network.ErrInterrupted {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// FuzzFrame gives a network any frame of a guest.
func FuzzFrame(f *testing.F) {
	f.Add(clientFrame(dhcpRequest, optionAsked, 4, 10, 0, 2, 15))
	f.Add(udpFrame(guestMAC, gatewayMAC, netip.MustParseAddrPort("10.0.2.15:1000"), netip.MustParseAddrPort("10.0.2.3:53"), []byte("x")))
	f.Add(bytes.Repeat([]byte{0x45, 0}, 40))
	f.Add(solicitation(netip.IPv6LinkLocalAllRouters(), append([]byte{byte(header.ICMPv6RouterSolicit)}, make([]byte, 7)...)))
	s, err := New(Config{Resolver: netip.MustParseAddrPort("127.0.0.1:9")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	out := make([]byte, network.MaxFrame)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if to, ok := destination(frame); ok && !s.nameServer(to) && to != broadcast && !to.IsMulticast() {
			return // a fuzzer has no business with others' hosts
		}
		header := make([]byte, network.HeaderSize)
		s.link.Send([][]byte{header, frame})
		for {
			n, err := s.link.Receive(out, false)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
		}
	})
}
