package usernet

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/stile-vmm/stile/devices/backend/network"
)

const allOffloads = Offloads

func random(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	rand.NewChaCha8(seed).Read(b)
	return b
}

// TestTCP sends some MiB up, and its hash and as much down, with frames of any kind.
func TestTCP(t *testing.T) {
	data := random(3 << 20)
	port := serve(t, func(c net.Conn) {
		sum := sha256.New()
		if _, err := io.Copy(sum, c); err != nil {
			return
		}
		c.Write(sum.Sum(nil))
		c.Write(data)
	})
	for name, offloads := range map[string]network.Offload{"plain": 0, "checksum": network.Csum, "all": allOffloads} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, Config{}, offloads)
			c, err := g.dial(g.address(port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.Copy(c, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(data); !bytes.Equal(got, append(want[:], data...)) {
				t.Errorf("%d bytes came back, not the %d that should", len(got), len(data)+len(want))
			}
		})
	}
}

func TestTCPRefused(t *testing.T) {
	g := newGuest(t, Config{}, allOffloads)
	unused := serve(t, func(net.Conn) {})
	for name, to := range map[string]tcpip.FullAddress{
		"host":        g.address(1),
		"name server": full(netip.AddrPortFrom(g.s.addresses.DNS, uint16(unused))),
		"neighbour":   full(netip.MustParseAddrPort("10.0.2.77:80")),
	} {
		if c, err := g.dial(to); err == nil {
			c.Close()
			t.Errorf("%s: connected", name)
		} else if name == "host" && !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTCPReset checks that an abort passes through, in both directions.
func TestTCPReset(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		g := newGuest(t, Config{}, allOffloads)
		c, err := g.dial(g.address(serve(t, func(c net.Conn) {
			c.Read(make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0)
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("network", func(t *testing.T) {
		ended := make(chan error, 1)
		port := serve(t, func(c net.Conn) {
			_, err := io.Copy(io.Discard, c)
			ended <- err
		})
		g := newGuest(t, Config{}, allOffloads)
		if _, err := g.dial(g.address(port)); err != nil {
			t.Fatal(err)
		}
		g.s.Close()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host's end: %v", err)
		}
	})
}

// A port that can't be had is named with what can be done, and others that can be had are given back.
func TestForwardRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	_, err = New(Config{Forwards: []Forward{{Host: taken, Guest: 22}, {Host: netip.MustParseAddrPort("192.0.2.1:8022"), Guest: 23}}})
	for _, want := range []string{
		fmt.Sprintf("forward %v to the guest's port 22:", taken), "or choose another port", "to the guest's port 23:", "this host does not have the address",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, without %q", err, want)
		}
	}
}

func TestForward(t *testing.T) {
	g := newGuest(t, Config{Forwards: []Forward{
		{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 22}, {Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 23},
	}}, allOffloads)
	ports := g.s.Forwards()
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Port: 22}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	data := random(1 << 20)
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(ports[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(data), err)
	}
	closed, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(ports[1]))
	if err == nil {
		defer closed.Close()
		_, err = closed.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port that the guest does not serve: %v", err)
	}
	if _, err := New(Config{Forwards: []Forward{{Host: ports[0], Guest: 1}, {Host: netip.MustParseAddrPort("192.0.2.1:1"), Guest: 2}}}); err == nil ||
		!strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("forwards that can't be had: %v", err)
	}
}

func TestUDP(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append(buf[:n:n], '!'), from)
		}
	}()
	g := newGuest(t, Config{}, allOffloads)
	c := g.dialUDP(g.address(server.LocalAddr().(*net.UDPAddr).Port))
	buf := make([]byte, 65536)
	for _, text := range []string{"one", "", strings.Repeat("x", 9000)} { // the last in fragments
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != text+"!" {
			t.Fatalf("of %d bytes came back %d: %v", len(text), n, err)
		}
	}
}

// query is a DNS message that asks for nothing, with an identity.
func query(id uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), make([]byte, dnsHeader)...)
}

func TestDNS(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2] |= dnsResponse
			server.WriteTo([]byte("not an answer to anybody"), from)
			server.WriteTo(append(buf[:n:n], "answer"...), from)
		}
	}()
	g := newGuest(t, Config{Resolver: server.LocalAddr().(*net.UDPAddr).AddrPort()}, allOffloads)
	c := g.dialUDP(full(netip.AddrPortFrom(g.s.addresses.DNS, dnsPort)))
	buf := make([]byte, 1000)
	c.Write([]byte("short"))
	for id := range uint16(20) {
		c.Write(query(id))
		n, err := c.Read(buf)
		if err != nil || binary.BigEndian.Uint16(buf) != id || !bytes.HasSuffix(buf[:n], []byte("answer")) {
			t.Fatalf("query %d: %q, %v", id, buf[:n], err)
		}
	}
	server.Close()
	c.Write(query(77))
	if n, err := c.Read(buf); err != nil || n < dnsHeader || buf[2]&dnsResponse == 0 || buf[3]&15 != dnsFailed {
		t.Errorf("without a name server: %x, %v", buf[:n], err)
	}
}

func TestResolvers(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "127.0.0.1:53",
		"# nameserver 1.1.1.1\nsearch a.b\n": "127.0.0.1:53",
		"nameserver 192.0.2.1\nnameserver x\nnameserver ::1 # x": "192.0.2.1:53 [::1]:53",
	} {
		var got []string
		for _, a := range parseResolvers(text) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", text, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	bad := Config{
		CIDR:     netip.MustParsePrefix("fd00::/64"),
		Forwards: []Forward{{Host: netip.MustParseAddrPort("127.0.0.1:1"), Guest: 0}, {Host: netip.AddrPort{}, Guest: 1}, {Host: netip.MustParseAddrPort("127.0.0.1:1"), Guest: 1}, {Host: netip.MustParseAddrPort("127.0.0.1:1"), Guest: 1, UDP: true}},
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"fd00::/64", "no port of the guest", "no address of the host", "twice"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	for _, cidr := range []string{"10.0.0.0/30", "127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/0"} {
		if err := (&Config{CIDR: netip.MustParsePrefix(cidr)}).Validate(); err == nil {
			t.Errorf("%s: accepted", cidr)
		}
	}
	a := (&Config{CIDR: netip.MustParsePrefix("192.168.77.9/24")}).Addresses()
	if a.Gateway.String() != "192.168.77.2" || a.DNS.String() != "192.168.77.3" || a.Guest.String() != "192.168.77.15/24" {
		t.Errorf("addresses %v", a)
	}
}

// TestBounds opens connections until the limit, and finds the network alive when they are gone.
func TestBounds(t *testing.T) {
	block := make(chan struct{})
	port := serve(t, func(c net.Conn) {
		c.Write([]byte("x"))
		<-block
	})
	g := newGuest(t, Config{}, allOffloads)
	var open []net.Conn
	for len(open) < maxConns {
		c, err := g.dial(g.address(port))
		if err != nil {
			t.Fatalf("connection %d: %v", len(open), err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatalf("connection %d: %v", len(open), err)
		}
		open = append(open, c)
	}
	if c, err := g.dial(g.address(port)); err == nil {
		c.Close()
		t.Errorf("%d connections", len(open)+1)
	}
	close(block)
	for _, c := range open {
		io.Copy(io.Discard, c)
		c.Close()
	}
	for end := time.Now().Add(limit); ; {
		c, err := g.dial(g.address(port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// BenchmarkTCP sends through two stacks, the guest's among them.
func BenchmarkTCP(b *testing.B) {
	for name, offloads := range map[string]network.Offload{"plain": 0, "all": allOffloads} {
		b.Run(name, func(b *testing.B) {
			got := make(chan struct{})
			g := newGuest(b, Config{}, offloads)
			c, err := g.dial(g.address(serve(b, func(c net.Conn) {
				io.Copy(io.Discard, c)
				close(got)
			})))
			if err != nil {
				b.Fatal(err)
			}
			piece := random(64 << 10)
			b.SetBytes(int64(len(piece)))
			for range b.N {
				if _, err := c.Write(piece); err != nil {
					b.Fatal(err)
				}
			}
			c.CloseWrite()
			<-got
			c.Close()
		})
	}
}
