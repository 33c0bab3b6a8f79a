package usernet

import (
	"errors"
	"fmt"
	"net/netip"
)

// Config says what the network is like. It is a plain value; its zero value is valid.
type Config struct {
	// CIDR is the network, 10.0.2.0/24 if not set. Its addresses 2, 3 and 15 are the gateway's, the name server's and
	// the guest's.
	CIDR netip.Prefix
	// CIDR6 is the IPv6 network, of 64 bits, fd73:7469:6c65::/64 if not set. Its addresses 2, 3 and 15 (hexadecimal f) are
	// as those above.
	CIDR6 netip.Prefix
	// NoIPv6 leaves IPv6 out.
	NoIPv6 bool
	// Forwards are ports of the host that lead into the guest.
	Forwards []Forward
	// Resolver is asked for names; the host's, from /etc/resolv.conf, if not set.
	Resolver netip.AddrPort
	// Restrict leaves the guest nothing but the Forwards: it reaches neither this host nor others, nor has names resolved.
	Restrict bool
	// Deny are addresses that the guest does not reach, as this host knows them: 127.0.0.0/8 is this host. A name server
	// answers all the same.
	Deny []netip.Prefix
	// MAC is the guest's card's address, if it has more than the network knows from DHCP.
	MAC [6]byte
}

// Forward leads TCP connections, or datagrams, to an address of the host to a port of the guest.
type Forward struct {
	Host  netip.AddrPort // port 0 chooses one: see Stack.Forwards
	Guest uint16
	UDP   bool
}

// Port is what a forward takes of the host.
type Port struct {
	netip.AddrPort
	UDP bool
}

// Port returns it.
func (f Forward) Port() Port { return Port{f.Host, f.UDP} }

// String names the protocol where it is not TCP.
func (p Port) String() string {
	if p.UDP {
		return p.AddrPort.String() + "/udp"
	}
	return p.AddrPort.String()
}

// Default returns the networks of a guest's nth card of this kind, counted from 0: 10.0.2.0/24, which other VMMs have by default,
// too, and a unique local network (RFC 4193), and those that follow.
func Default(n byte) (ipv4, ipv6 netip.Prefix) {
	const firstIPv4 = 2
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, firstIPv4 + n}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 's', 2: 't', 3: 'i', 4: 'l', 5: 'e', 7: n}), bits6)
}

// bits6 is the size of an IPv6 network in which hosts choose their addresses (RFC 4291, 2.5.4).
const bits6 = 64

// Addresses in the network, counted from its first.
const (
	gatewayHost = 2
	dnsHost     = 3
	guestHost   = 15
)

func (c *Config) cidr() netip.Prefix {
	if c.CIDR.IsValid() {
		return c.CIDR.Masked()
	}
	p, _ := Default(0)
	return p
}

func (c *Config) cidr6() netip.Prefix {
	if c.CIDR6.IsValid() {
		return c.CIDR6.Masked()
	}
	_, p := Default(0)
	return p
}

// Overlaps reports whether two networks have an address in common.
func (c *Config) Overlaps(o *Config) bool {
	return c.cidr().Overlaps(o.cidr()) || !c.NoIPv6 && !o.NoIPv6 && c.cidr6().Overlaps(o.cidr6())
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var faults []error
	if p := c.cidr(); !p.Addr().Is4() || p.Bits() > 27 || p.Bits() < 8 {
		faults = append(faults, fmt.Errorf("network %v: must be one of IPv4 with 8 to 27 bits, such as 10.0.2.0/24", p))
	} else if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() {
		faults = append(faults, fmt.Errorf("network %v is not one for hosts", p))
	}
	if p := c.cidr6(); p.Bits() != bits6 || !p.Addr().Is6() || p.Addr().Is4In6() || !p.Addr().IsGlobalUnicast() {
		faults = append(faults, fmt.Errorf("network %v: must be one of IPv6 with %d bits, such as fd00:1::/%d", p, bits6, bits6))
	}
	seen := make(map[Port]bool)
	for _, f := range c.Forwards {
		switch {
		case !f.Host.IsValid():
			faults = append(faults, fmt.Errorf("forward to port %d of the guest: no address of the host", f.Guest))
		case f.Guest == 0:
			faults = append(faults, fmt.Errorf("forward of %v: no port of the guest", f.Host))
		case seen[f.Port()] && f.Host.Port() != 0:
			faults = append(faults, fmt.Errorf("%v is forwarded twice", f.Port()))
		}
		seen[f.Port()] = true
	}
	return errors.Join(faults...)
}

// Addresses are the network's.
type Addresses struct {
	Gateway, DNS netip.Addr
	Guest        netip.Prefix // the address, with the network's size
	// The same of IPv6, not valid where it is left out.
	Gateway6, DNS6 netip.Addr
	Guest6         netip.Prefix
}

// Addresses returns them. The configuration is valid.
func (c *Config) Addresses() Addresses {
	p := c.cidr()
	a := Addresses{
		Gateway: nth(p, gatewayHost), DNS: nth(p, dnsHost), Guest: netip.PrefixFrom(nth(p, guestHost), p.Bits()),
	}
	if !c.NoIPv6 {
		p = c.cidr6()
		a.Gateway6, a.DNS6, a.Guest6 = nth(p, gatewayHost), nth(p, dnsHost), netip.PrefixFrom(nth(p, guestHost), p.Bits())
	}
	return a
}

// nth returns the nth address of p, whose last byte has the room.
func nth(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] += n
	a, _ := netip.AddrFromSlice(b) // of the same length
	return a
}
