package usernet

import (
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// rawGuest is a guest that answers what it likes.
type rawGuest struct {
	t *testing.T
	s *Stack
}

func newRawGuest(t *testing.T) *rawGuest {
	t.Helper()
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	g := &rawGuest{t, s}
	g.announce()
	return g
}

func (g *rawGuest) send(frame []byte) {
	g.s.link.Send([][]byte{make([]byte, network.HeaderSize), frame})
}

// ethernet returns a frame to the gateway with room for n bytes.
func (g *rawGuest) ethernet(protocol tcpip.NetworkProtocolNumber, n int) []byte {
	frame := make([]byte, network.EthernetSize+n)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guestMAC[:]), DstAddr: tcpip.LinkAddress(gatewayMAC[:]), Type: protocol,
	})
	return frame
}

// announce tells the guest's address, by asking for the gateway's.
func (g *rawGuest) announce() {
	frame := g.ethernet(header.ARPProtocolNumber, header.ARPSize)
	arp := header.ARP(frame[network.EthernetSize:])
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	mine, gateway := g.s.addresses.Guest.Addr().As4(), g.s.addresses.Gateway.As4()
	copy(arp.HardwareAddressSender(), guestMAC[:])
	copy(arp.ProtocolAddressSender(), mine[:])
	copy(arp.ProtocolAddressTarget(), gateway[:])
	g.send(frame)
}

// tcp sends a segment to a port of the gateway.
func (g *rawGuest) tcp(from, to int, flags header.TCPFlags, seq, ack uint32, window uint16) {
	const size = header.IPv4MinimumSize + header.TCPMinimumSize
	frame := g.ethernet(header.IPv4ProtocolNumber, size)
	ip := header.IPv4(frame[network.EthernetSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: size, TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(g.s.addresses.Guest.Addr().As4()), DstAddr: tcpip.AddrFrom4(g.s.addresses.Gateway.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	segment := header.TCP(ip.Payload())
	segment.Encode(&header.TCPFields{
		SrcPort: uint16(from), DstPort: uint16(to), SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: window,
	})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(segment)))
	segment.SetChecksum(^checksum.Checksum(segment, sum))
	g.send(frame)
}

// await returns the number of the next segment to the guest's port with these flags.
func (g *rawGuest) await(port int, flags header.TCPFlags) uint32 {
	g.t.Helper()
	frame := make([]byte, network.MaxFrame)
	for {
		n, err := g.s.link.Receive(frame, true)
		if err != nil {
			g.t.Fatal(err)
		}
		if _, ok := destination(frame[network.HeaderSize:n]); !ok {
			continue
		}
		ip := header.IPv4(frame[network.HeaderSize+network.EthernetSize : n])
		if segment := header.TCP(ip.Payload()); ip.TransportProtocol() == header.TCPProtocolNumber &&
			int(segment.DestinationPort()) == port && segment.Flags()&flags == flags {
			return segment.SequenceNumber()
		}
	}
}

// closeLimit is far more than Close takes, and less than a handshake that nobody answers.
const closeLimit = 10 * time.Second

// closes fails unless the network can be closed.
func (g *rawGuest) closes() {
	g.t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		g.s.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeLimit):
		g.t.Fatal("Close still waits")
	}
}

// TestCloseInHandshake: a guest that does not go on with a connection does not hold Close up.
func TestCloseInHandshake(t *testing.T) {
	g := newRawGuest(t)
	g.tcp(1000, serve(t, func(c net.Conn) { io.Copy(io.Discard, c) }), header.TCPFlagSyn, 1, 0, 65535)
	g.await(1000, header.TCPFlagSyn|header.TCPFlagAck)
	g.closes()
}

// TestUntakenDataCounts: what a guest leaves on the wire is part of its connection, also when both ends are through.
func TestUntakenDataCounts(t *testing.T) {
	ended := make(chan struct{})
	port := serve(t, func(c net.Conn) {
		io.Copy(io.Discard, c)
		c.Write(make([]byte, tcpBuffer/4))
		c.Close()
		close(ended)
	})
	g := newRawGuest(t)
	g.tcp(1000, port, header.TCPFlagSyn, 1, 0, 0)
	seq := g.await(1000, header.TCPFlagSyn|header.TCPFlagAck) + 1
	g.tcp(1000, port, header.TCPFlagFin|header.TCPFlagAck, 2, seq, 0) // no window, and the end
	<-ended
	// A connection of its own passes through the whole relay after the first had the time to end.
	for port := 1001; port < 1004; port++ {
		g.refusedAfter(port)
	}
	if n := len(g.s.conns); n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	g.closes()
}

// refusedAfter waits until a connection that the host refuses has been answered.
func (g *rawGuest) refusedAfter(port int) {
	g.tcp(port, 1, header.TCPFlagSyn, 1, 0, 65535)
	g.await(port, header.TCPFlagRst)
	for end := time.Now().Add(limit); len(g.s.conns) > 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}
