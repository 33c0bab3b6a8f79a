package usernet

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// dhcpServer gives every client the guest's one address (RFC 2131).
type dhcpServer struct {
	addresses Addresses
	mac       [6]byte
	search    []string // domains
}

const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	dhcpRequestOp = 1
	dhcpReplyOp   = 2
	dhcpFixed     = 236 // bytes before the cookie (RFC 2131, 2)
	dhcpCookie    = 0x63825363
	dhcpMinimum   = 300 // bytes of a message that old clients insist on
	dhcpLease     = 86400

	// Message types (RFC 2132, 9.6).
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
	dhcpInform   = 8

	// Options (RFC 2132).
	optionPad    = 0
	optionMask   = 1
	optionRouter = 3
	optionDNS    = 6
	optionDomain = 15
	optionMTU    = 26
	optionAsked  = 50
	optionLease  = 51
	optionType   = 53
	optionServer = 54
	optionSearch = 119 // RFC 3397
	optionEnd    = 255
)

// dhcpMessage is what matters of a client's message.
type dhcpMessage struct {
	fixed  [dhcpFixed]byte
	kind   byte
	asked  netip.Addr // the address that the client wants, if it says so
	server netip.Addr // the server that it talks to
}

// answer returns the frame that answers a frame of the guest, nil if that is none for a DHCP server.
func (d *dhcpServer) answer(frame []byte) []byte {
	payload, ok := udpPayload(frame, dhcpServerPort)
	if !ok {
		return nil
	}
	m, ok := parseDHCP(payload)
	if !ok || m.server.IsValid() && m.server != d.addresses.Gateway {
		return nil
	}
	guest := d.addresses.Guest.Addr()
	switch m.kind {
	case dhcpDiscover:
		return d.reply(m, dhcpOffer, guest)
	case dhcpRequest:
		wanted := m.asked
		if !wanted.IsValid() {
			wanted = netip.AddrFrom4([4]byte(m.fixed[12:16])) // a renewal says it there
		}
		if wanted != guest {
			return d.reply(m, dhcpNak, netip.IPv4Unspecified())
		}
		return d.reply(m, dhcpAck, guest)
	case dhcpInform:
		return d.reply(m, dhcpAck, netip.IPv4Unspecified())
	}
	return nil
}

// parseDHCP reads a client's message.
func parseDHCP(b []byte) (*dhcpMessage, bool) {
	const ethernet, addressSize = 1, 6
	if len(b) < dhcpFixed+4 || binary.BigEndian.Uint32(b[dhcpFixed:]) != dhcpCookie ||
		b[0] != dhcpRequestOp || b[1] != ethernet || b[2] != addressSize {
		return nil, false
	}
	m := &dhcpMessage{fixed: [dhcpFixed]byte(b)}
	for b = b[dhcpFixed+4:]; len(b) > 0 && b[0] != optionEnd; {
		if b[0] == optionPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return nil, false
		}
		code, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		switch {
		case code == optionType && len(value) == 1:
			m.kind = value[0]
		case code == optionAsked && len(value) == 4:
			m.asked = netip.AddrFrom4([4]byte(value))
		case code == optionServer && len(value) == 4:
			m.server = netip.AddrFrom4([4]byte(value))
		}
	}
	return m, true
}

// reply makes the frame of an answer. It goes to the client's card, and to every address: the client may have none yet.
func (d *dhcpServer) reply(m *dhcpMessage, kind byte, address netip.Addr) []byte {
	const yourAddress, serverAddress, clientMAC = 16, 20, 28
	b := make([]byte, dhcpFixed, dhcpMinimum)
	copy(b, m.fixed[:])
	clear(b[44:]) // names of server and file
	b[0], b[3] = dhcpReplyOp, 0
	yours, gateway, dns := address.As4(), d.addresses.Gateway.As4(), d.addresses.DNS.As4()
	copy(b[yourAddress:], yours[:])
	copy(b[serverAddress:], gateway[:])
	b = binary.BigEndian.AppendUint32(b, dhcpCookie)
	option := func(code byte, value ...byte) { b = append(append(b, code, byte(len(value))), value...) }
	option(optionType, kind)
	option(optionServer, gateway[:]...)
	if kind != dhcpNak {
		option(optionMask, maskOf(d.addresses.Guest)...)
		option(optionRouter, gateway[:]...)
		option(optionDNS, dns[:]...)
		if len(d.search) > 0 {
			option(optionDomain, []byte(d.search[0])...)
			option(optionSearch, encodeNames(d.search, 255)...)
		}
		option(optionMTU, binary.BigEndian.AppendUint16(nil, network.DefaultMTU)...)
		if address.IsValid() && !address.IsUnspecified() {
			option(optionLease, binary.BigEndian.AppendUint32(nil, dhcpLease)...)
		}
	}
	b = append(b, optionEnd)
	if len(b) < dhcpMinimum {
		b = append(b, make([]byte, dhcpMinimum-len(b))...)
	}
	return udpFrame(d.mac, [6]byte(m.fixed[clientMAC:]), netip.AddrPortFrom(d.addresses.Gateway, dhcpServerPort),
		netip.AddrPortFrom(broadcast, dhcpClientPort), b)
}

func maskOf(p netip.Prefix) []byte {
	return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
}

// udpPayload returns the payload of a frame that is a whole UDP datagram over IPv4 to that port.
func udpPayload(frame []byte, port uint16) ([]byte, bool) {
	if len(frame) < network.EthernetSize+header.IPv4MinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil, false
	}
	ip := header.IPv4(frame[network.EthernetSize:])
	if !ip.IsValid(len(ip)) || ip.TransportProtocol() != header.UDPProtocolNumber || ip.More() || ip.FragmentOffset() != 0 {
		return nil, false
	}
	b := header.UDP(ip.Payload())
	if len(b) < header.UDPMinimumSize || b.DestinationPort() != port || int(b.Length()) < header.UDPMinimumSize || int(b.Length()) > len(b) {
		return nil, false
	}
	return b[header.UDPMinimumSize:b.Length()], true
}

// udpFrame makes a frame that is a UDP datagram.
func udpFrame(fromMAC, toMAC [6]byte, from, to netip.AddrPort, payload []byte) []byte {
	const size = network.EthernetSize + header.IPv4MinimumSize + header.UDPMinimumSize
	frame := make([]byte, size+len(payload))
	copy(frame[size:], payload)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(fromMAC[:]), DstAddr: tcpip.LinkAddress(toMAC[:]), Type: header.IPv4ProtocolNumber,
	})
	ip := header.IPv4(frame[network.EthernetSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(from.Addr().As4()), DstAddr: tcpip.AddrFrom4(to.Addr().As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(ip.Payload())
	udp.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(len(udp))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	return frame
}
