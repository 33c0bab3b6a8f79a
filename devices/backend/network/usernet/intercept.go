package usernet

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// intercept answers DHCP, and keeps from the stack pings of others than the gateway and the name server: it would
// answer in everybody's name.
func (s *Stack) intercept(frame []byte) bool {
	if len(frame) < network.EthernetSize {
		return false
	}
	mac := [6]byte(frame[6:12])
	s.guestMAC.Store(&mac)
	if reply := s.dhcp.answer(frame); reply != nil {
		s.link.put(outgoing{frame: reply})
		return true
	}
	if reply, drop := s.router.answer(frame); drop {
		if reply != nil {
			s.link.put(outgoing{frame: reply})
		}
		return true
	}
	to, ok := pingTarget(frame)
	return ok && to != s.addresses.Gateway && to != s.addresses.DNS
}

// pingTarget returns whom a frame is an ICMP message for, if it is one over IPv4.
func pingTarget(frame []byte) (netip.Addr, bool) {
	if len(frame) < network.EthernetSize+header.IPv4MinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return netip.Addr{}, false
	}
	ip := header.IPv4(frame[network.EthernetSize:])
	return netip.AddrFrom4(ip.DestinationAddress().As4()), ip.TransportProtocol() == header.ICMPv4ProtocolNumber
}
