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
	// Forwards are ports of the host that lead into the guest.
	Forwards []Forward
	// Resolver is asked for names; the host's, from /etc/resolv.conf, if not set.
	Resolver netip.AddrPort
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

// defaultCIDR is the network that other VMMs have by default, too.
var defaultCIDR = netip.MustParsePrefix("10.0.2.0/24")

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
	return defaultCIDR
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var faults []error
	if p := c.cidr(); !p.Addr().Is4() || p.Bits() > 27 || p.Bits() < 8 {
		faults = append(faults, fmt.Errorf("network %v: must be one of IPv4 with 8 to 27 bits, such as 10.0.2.0/24", p))
	} else if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() {
		faults = append(faults, fmt.Errorf("network %v is not one for hosts", p))
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
}

// Addresses returns them. The configuration is valid.
func (c *Config) Addresses() Addresses {
	p := c.cidr()
	return Addresses{
		Gateway: nth(p, gatewayHost), DNS: nth(p, dnsHost), Guest: netip.PrefixFrom(nth(p, guestHost), p.Bits()),
	}
}

// nth returns the nth address of p, whose last byte has the room.
func nth(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().As4()
	b[3] += n
	return netip.AddrFrom4(b)
}
