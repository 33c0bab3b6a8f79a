package vmm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/devices/backend/network/usernet"
)

// NetSyntax is what ParseNet takes.
const NetSyntax = "user[,fwd=[HOSTIP:]PORT:GUESTPORT[/udp]]…[,cidr=NETWORK][,ipv6=NETWORK|off][,dns=IP[:PORT]][,restrict][,deny=ADDRESS[/BITS]]…, tap=NAME[,ip=ADDRESS/BITS][,gw=ADDRESS] or macvtap=NAME; all but macvtap with mac=ADDRESS"

// ParseNet reads a network card, as on the command line. The error says all faults that are in the text.
func ParseNet(text string) (Net, error) {
	words := strings.Split(text, ",")
	kind, name, _ := strings.Cut(words[0], "=")
	n := Net{Kind: NetKind(kind), Name: name}
	var faults []error
	switch {
	case n.Kind == NetUser && name != "":
		faults = append(faults, errors.New("user has no name"))
	case n.Kind != NetUser && n.Kind != NetTap && n.Kind != NetMacvtap:
		return n, fmt.Errorf("network %q: must be %s", text, NetSyntax)
	}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		if err := n.set(key, value); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, n.validate())
	if err := errors.Join(faults...); err != nil {
		return n, fmt.Errorf("network %q: %w", text, err)
	}
	return n, nil
}

// set reads one option.
func (n *Net) set(key, value string) (err error) {
	user := n.Kind == NetUser
	switch {
	case key == "mac":
		n.MAC, err = parseMAC(value)
	case key == "fwd" && user:
		var f usernet.Forward
		if f, err = parseForward(value); err == nil {
			n.User.Forwards = append(n.User.Forwards, f)
		}
	case key == "cidr" && user:
		n.User.CIDR, err = parsePrefix(value)
	case key == "ipv6" && user && value == "off":
		n.User.NoIPv6 = true
	case key == "ipv6" && user:
		n.User.CIDR6, err = parsePrefix(value)
	case key == "restrict" && user && value == "":
		n.User.Restrict = true
	case key == "deny" && user:
		var p netip.Prefix
		if p, err = parseDenied(value); err == nil {
			n.User.Deny = append(n.User.Deny, p)
		}
	case key == "dns" && user:
		n.User.Resolver, err = parseResolver(value)
	case key == "ip" && !user:
		n.Address, err = parsePrefix(value)
	case key == "gw" && !user:
		if n.Gateway, err = netip.ParseAddr(value); err != nil {
			err = errors.New("must be an address such as 10.9.0.1")
		}
	default:
		return fmt.Errorf("%s takes no %q", n.Kind, key)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", key, value, err)
	}
	return nil
}

func parseMAC(text string) (mac [6]byte, err error) {
	parsed, err := net.ParseMAC(text)
	if err != nil || len(parsed) != len(mac) {
		return mac, errors.New("must be six bytes in hex, such as 02:00:00:00:00:01")
	}
	if mac = [6]byte(parsed); mac == [6]byte{} {
		return mac, errors.New("must not be zero")
	}
	return mac, nil
}

// parseForward reads [HOSTIP:]PORT:GUESTPORT[/udp]. Without an address the port is open to this host alone.
func parseForward(text string) (usernet.Forward, error) {
	wrong := func() (usernet.Forward, error) {
		return usernet.Forward{}, errors.New("must be [HOSTIP:]PORT:GUESTPORT[/udp], such as 8022:22 or 0.0.0.0:8053:53/udp")
	}
	text, isUDP := strings.CutSuffix(strings.TrimSuffix(text, "/tcp"), "/udp")
	host, guestText, ok := cutLast(text)
	if !ok {
		return wrong()
	}
	guest, err := strconv.ParseUint(guestText, 10, 16)
	if err != nil || guest == 0 {
		return wrong()
	}
	if !strings.Contains(host, ":") {
		host = "127.0.0.1:" + host
	}
	at, err := netip.ParseAddrPort(host)
	if err != nil || at.Port() == 0 { // nobody would learn which one was chosen
		return wrong()
	}
	return usernet.Forward{Host: at, Guest: uint16(guest), UDP: isUDP}, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func parseResolver(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return at, errors.New("must be IP or IP:PORT")
	}
	return at, nil
}

// parseDenied reads an address, or one with the network's bits.
func parseDenied(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, errors.New("must be an address, or one with the network's bits, such as 192.168.0.0/16")
	}
	return p.Masked(), nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, errors.New("must be an address with the network's bits, such as 10.9.0.2/24")
	}
	return p, nil
}
