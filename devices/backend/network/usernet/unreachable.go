package usernet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// unreachableCodes are the ICMP codes of "destination unreachable" for an error of a socket of the host (RFC 792, RFC 4443, 3.1).
var unreachableCodes = []struct {
	errno unix.Errno
	ipv4  header.ICMPv4Code
	ipv6  header.ICMPv6Code
}{
	{unix.ECONNREFUSED, header.ICMPv4PortUnreachable, header.ICMPv6PortUnreachable},
	{unix.EHOSTUNREACH, header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable},
	{unix.ENETUNREACH, header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable},
	{unix.EACCES, header.ICMPv4AdminProhibited, header.ICMPv6Prohibited},
	{unix.EPERM, header.ICMPv4AdminProhibited, header.ICMPv6Prohibited},
}

// undelivered reports whether an error is the fate of one datagram, and not of the socket.
func undelivered(err error) bool {
	for _, c := range unreachableCodes {
		if errors.Is(err, c.errno) {
			return true
		}
	}
	return false
}

// unreachable tells the guest why a datagram from an address of its own was not delivered. Other errors it is not told.
func (s *Stack) unreachable(from, to netip.AddrPort, err error) {
	mac := s.guestMAC.Load()
	if mac == nil {
		return
	}
	for _, c := range unreachableCodes {
		if errors.Is(err, c.errno) {
			s.link.put(outgoing{frame: unreachableFrame(*mac, from, to, c.ipv4, c.ipv6)})
			return
		}
	}
}

// unreachableFrame makes the frame of the error, which quotes the datagram's headers. It comes from where the datagram went.
func unreachableFrame(mac [6]byte, from, to netip.AddrPort, code4 header.ICMPv4Code, code6 header.ICMPv6Code) []byte {
	quoted := udpHeader(from, to)
	if to.Addr().Is6() {
		ip := make(header.IPv6, header.IPv6MinimumSize)
		ip.Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(quoted)), TransportProtocol: header.UDPProtocolNumber, HopLimit: hopLimit,
			SrcAddr: tcpip.AddrFrom16(from.Addr().As16()), DstAddr: tcpip.AddrFrom16(to.Addr().As16()),
		})
		message := append([]byte{byte(header.ICMPv6DstUnreachable), byte(code6), 0, 0, 0, 0, 0, 0}, ip...)
		return icmp6Frame(gatewayMAC, mac, to.Addr(), from.Addr(), hopLimit, append(message, quoted...))
	}
	message := append([]byte{byte(header.ICMPv4DstUnreachable), byte(code4), 0, 0, 0, 0, 0, 0},
		ipv4Header(from.Addr(), to.Addr(), header.UDPProtocolNumber, len(quoted))...)
	message = append(message, quoted...)
	icmp := header.ICMPv4(message)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	frame := make([]byte, network.EthernetSize)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(gatewayMAC[:]), DstAddr: tcpip.LinkAddress(mac[:]), Type: header.IPv4ProtocolNumber,
	})
	return append(append(frame, ipv4Header(to.Addr(), from.Addr(), header.ICMPv4ProtocolNumber, len(message))...), message...)
}

// udpHeader is that of a datagram without its checksum, and without what is in it.
func udpHeader(from, to netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	return append(b, 0, header.UDPMinimumSize, 0, 0)
}

// ipv4Header is that of a packet with size bytes behind it.
func ipv4Header(from, to netip.Addr, protocol tcpip.TransportProtocolNumber, size int) header.IPv4 {
	ip := make(header.IPv4, header.IPv4MinimumSize)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip) + size), TTL: hopLimit, Protocol: uint8(protocol),
		SrcAddr: tcpip.AddrFrom4(from.As4()), DstAddr: tcpip.AddrFrom4(to.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return ip
}
