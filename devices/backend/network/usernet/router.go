package usernet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// router tells the guest of the IPv6 network, from whose bits it makes itself an address (RFC 4861, RFC 4862, RFC 8106).
type router struct {
	addresses Addresses
	mac       [6]byte
	search    []string // domains
}

const (
	hopLimit = 64
	// ndpHopLimit is what a neighbour's message has: it has come over no router (RFC 4861, 6.1.1).
	ndpHopLimit    = 255
	routerLifetime = 9000 * time.Second // the longest (RFC 4861, 6.2.1)

	// Options (RFC 4861, 4.6; RFC 8106, 5), whose length counts 8 bytes.
	ndpSourceMAC = 1
	ndpPrefix    = 3
	ndpMTU       = 5
	ndpDNS       = 25
	ndpSearch    = 31

	prefixOnLink, prefixAutonomous = 0x80, 0x40
	forever                        = 0xffffffff // seconds
)

// allNodes is every host on the link.
var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})

// answer returns the frame that answers one of the guest, if any, and whether the stack is not to have that of the guest. The stack would
// answer in everybody's name: also where the guest asks whether an address is free for itself.
func (r *router) answer(frame []byte) (reply []byte, drop bool) {
	message, to, ok := icmp6(frame)
	if !ok {
		return nil, false
	}
	switch message.Type() {
	case header.ICMPv6RouterSolicit:
		return r.advertise(), true
	case header.ICMPv6NeighborSolicit:
		const target = header.ICMPv6HeaderSize + 4
		if len(message) < target+16 {
			return nil, true
		}
		to = netip.AddrFrom16([16]byte(message[target:]))
		return nil, !slices.Contains(r.addresses.own(), to)
	case header.ICMPv6EchoRequest:
		return nil, !slices.Contains(r.addresses.own(), to)
	case header.ICMPv6RouterAdvert, header.ICMPv6RedirectMsg:
		return nil, true
	}
	return nil, false
}

// icmp6 returns the ICMPv6 message of a frame, and whom it is for. Messages behind other headers are not found.
func icmp6(frame []byte) (header.ICMPv6, netip.Addr, bool) {
	if len(frame) < network.EthernetSize+header.IPv6MinimumSize || header.Ethernet(frame).Type() != header.IPv6ProtocolNumber {
		return nil, netip.Addr{}, false
	}
	ip := header.IPv6(frame[network.EthernetSize:])
	message := header.ICMPv6(frame[network.EthernetSize+header.IPv6MinimumSize:])
	if ip.TransportProtocol() != header.ICMPv6ProtocolNumber || len(message) < header.ICMPv6HeaderSize {
		return nil, netip.Addr{}, false
	}
	return message, netip.AddrFrom16(ip.DestinationAddress().As16()), true
}

// advertise makes the frame of a router advertisement to all on the link.
func (r *router) advertise() []byte {
	b := []byte{byte(header.ICMPv6RouterAdvert), 0, 0, 0, hopLimit, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(routerLifetime/time.Second))
	b = append(b, make([]byte, 8)...) // reachable and retransmission time: the guest's
	b = append(append(b, ndpSourceMAC, 1), r.mac[:]...)
	b = append(b, ndpMTU, 1, 0, 0)
	b = binary.BigEndian.AppendUint32(b, network.DefaultMTU)
	b = append(b, ndpPrefix, 4, bits6, prefixOnLink|prefixAutonomous)
	b = binary.BigEndian.AppendUint32(b, forever) // valid
	b = binary.BigEndian.AppendUint32(b, forever) // preferred
	b = append(b, 0, 0, 0, 0)
	b = append(b, r.addresses.Guest6.Masked().Addr().AsSlice()...)
	b = append(b, ndpDNS, 3, 0, 0)
	b = binary.BigEndian.AppendUint32(b, forever)
	b = append(b, r.addresses.DNS6.AsSlice()...)
	if names := encodeNames(r.search, 240); len(names) > 0 {
		names = append(names, make([]byte, -len(names)&7)...)
		b = append(b, ndpSearch, byte(1+len(names)/8), 0, 0)
		b = binary.BigEndian.AppendUint32(b, forever)
		b = append(b, names...)
	}
	multicast := allNodes.As16()
	toMAC := [6]byte{0x33, 0x33, multicast[12], multicast[13], multicast[14], multicast[15]} // RFC 2464, 7
	return icmp6Frame(r.mac, toMAC, routerAddress, allNodes, ndpHopLimit, b)
}

// icmp6Frame makes the frame of an ICMPv6 message, whose checksum it sets.
func icmp6Frame(fromMAC, toMAC [6]byte, from, to netip.Addr, hops uint8, message []byte) []byte {
	const size = network.EthernetSize + header.IPv6MinimumSize
	frame := make([]byte, size, size+len(message))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(fromMAC[:]), DstAddr: tcpip.LinkAddress(toMAC[:]), Type: header.IPv6ProtocolNumber,
	})
	src, dst := tcpip.AddrFrom16(from.As16()), tcpip.AddrFrom16(to.As16())
	header.IPv6(frame[network.EthernetSize:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(message)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: hops, SrcAddr: src, DstAddr: dst,
	})
	icmp := header.ICMPv6(message)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	return append(frame, icmp...)
}
