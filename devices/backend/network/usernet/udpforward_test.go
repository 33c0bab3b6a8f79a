package usernet

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// TestForwardUDP has two senders of the host talk to a server in the guest, which tells them apart, and to a port that nobody serves.
func TestForwardUDP(t *testing.T) {
	free := netip.MustParseAddrPort("127.0.0.1:0")
	g := newGuest(t, Config{Forwards: []Forward{{Host: free, Guest: 53, UDP: true}, {Host: free, Guest: 54, UDP: true}}}, allOffloads)
	local := g.s.guest(Forward{Guest: 53})[0]
	server, err := gonet.DialUDP(g.stack, &local, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append(buf[:n:n], from.String()...), from)
		}
	}()
	ports := g.s.Forwards()
	var senders []*net.UDPConn
	for _, at := range []netip.AddrPort{ports[0], ports[0], ports[1]} {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		senders = append(senders, c)
	}
	if _, err := senders[2].Write([]byte("nobody")); err != nil {
		t.Fatal(err)
	}
	known := make(map[string]int)
	buf := make([]byte, maxDatagram)
	for _, text := range []string{"one", "", strings.Repeat("x", 9000)} { // the last in fragments
		for i, c := range senders[:2] {
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(buf)
			from, ok := strings.CutPrefix(string(buf[:n]), text)
			if err != nil || !ok {
				t.Fatalf("of %d bytes came back %d: %v", len(text), n, err)
			}
			if before, ok := known[from]; ok && before != i {
				t.Errorf("the guest knows senders %d and %d by %s", before, i, from)
			}
			known[from] = i
		}
	}
	if len(known) != 2 {
		t.Errorf("the guest knows two senders as %v", known)
	}
}
