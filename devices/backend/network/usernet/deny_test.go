package usernet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// TestDenied: a guest reaches no address that it is denied, by TCP nor UDP, and with Restrict none at all.
func TestDenied(t *testing.T) {
	port := serve(t, func(c net.Conn) { c.Write([]byte("x")) })
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	other := netip.MustParsePrefix("192.0.2.0/24")
	for _, test := range []struct {
		name    string
		cfg     Config
		refused bool
	}{
		{"nothing", Config{}, false},
		{"another network", Config{Deny: []netip.Prefix{other}}, false},
		{"this host", Config{Deny: []netip.Prefix{other, loopback}}, true},
		{"this host's IPv6", Config{Deny: []netip.Prefix{netip.MustParsePrefix("::1/128")}}, true},
		{"restrict", Config{Restrict: true}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuest(t, test.cfg, allOffloads)
			c, err := g.dial(g.address(port))
			if (err != nil) != test.refused {
				t.Errorf("TCP: %v", err)
			}
			if err == nil {
				c.Close()
			}
			for _, gateway := range []netip.Addr{g.s.addresses.Gateway, g.s.addresses.Gateway6} {
				if _, ok := g.s.host(gateway); ok == test.refused { // what UDP asks, too
					t.Errorf("%v reached: %v", gateway, ok)
				}
			}
		})
	}
	g := newGuest(t, Config{Restrict: true}, allOffloads)
	for name, dns := range map[string]tcpip.FullAddress{"name server": full(netip.AddrPortFrom(g.s.addresses.DNS, dnsPort))} {
		if c, err := g.dial(dns); err == nil {
			c.Close()
			t.Errorf("%s: connected by TCP", name)
		}
		u := g.dialUDP(dns)
		u.Write([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"))
		u.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := u.Read(make([]byte, 512)); err == nil {
			t.Errorf("%s: answers %d bytes by UDP", name, n)
		}
		u.Close()
	}
}
