package vmm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/network"
	"github.com/stile-vmm/stile/devices/backend/network/usernet"
	"github.com/stile-vmm/stile/devices/virtio"
)

// NetKind is what is behind a network card.
type NetKind string

const (
	NetUser    NetKind = "user"    // a TCP/IP stack in this process, see package usernet
	NetTap     NetKind = "tap"     // a tap of the host
	NetMacvtap NetKind = "macvtap" // a macvtap of the host
	NetStream  NetKind = "stream"  // NetUser in another process, by a UNIX socket
)

// Net is a network card.
type Net struct {
	Kind NetKind
	Name string  // of the tap or macvtap; the path of the stream's socket
	MAC  [6]byte // the card's address; if zero, one that stays the same from run to run
	User usernet.Config

	// Address, with the network's size, and Gateway are for the guest's agent where the network does not say.
	Address netip.Prefix
	Gateway netip.Addr
}

// maxNets is how many network cards a guest may have.
const maxNets = 8

func (c *Config) validateNets(fault func(format string, args ...any)) {
	if len(c.Nets) > maxNets {
		fault("%d network cards: at most %d", len(c.Nets), maxNets)
	}
	taps := make(map[string]bool)
	forwards := make(map[usernet.Port]bool)
	for i := range c.Nets {
		n := &c.Nets[i]
		if err := n.validate(); err != nil {
			fault("network %d: %w", i+1, err)
		}
		if n.Name != "" && taps[n.Name] {
			fault("%s %s is used twice", n.Kind, n.Name)
		}
		taps[n.Name] = true
		for _, f := range n.User.Forwards {
			if forwards[f.Port()] && f.Host.Port() != 0 {
				fault("%v is forwarded twice", f.Port())
			}
		}
		for _, f := range n.User.Forwards {
			forwards[f.Port()] = true
		}
		for j := range i {
			if o := &c.Nets[j]; o.Kind == NetUser && n.Kind == NetUser && n.User.Overlaps(&o.User) {
				fault("networks %d and %d have addresses in common: leave cidr= and ipv6= away, or choose others", j+1, i+1)
			}
		}
	}
}

// PlaceNets gives each network without privileges the addresses that it does not name itself: the first of usernet.Default that no
// other one has.
func PlaceNets(nets []Net) {
	var taken []netip.Prefix
	for i := range nets {
		taken = append(taken, nets[i].User.CIDR, nets[i].User.CIDR6) // what is not valid overlaps nothing
	}
	free := func(choose func(ipv4, ipv6 netip.Prefix) netip.Prefix) netip.Prefix {
		for n := range byte(len(taken) + 1) {
			p := choose(usernet.Default(n))
			if !slices.ContainsFunc(taken, p.Overlaps) {
				taken = append(taken, p)
				return p
			}
		}
		return netip.Prefix{} // the check of the machine refuses so many
	}
	for i := range nets {
		u := &nets[i].User
		if nets[i].Kind != NetUser {
			continue
		}
		if !u.CIDR.IsValid() {
			u.CIDR = free(func(ipv4, _ netip.Prefix) netip.Prefix { return ipv4 })
		}
		if !u.CIDR6.IsValid() && !u.NoIPv6 {
			u.CIDR6 = free(func(_, ipv6 netip.Prefix) netip.Prefix { return ipv6 })
		}
	}
}

func (n *Net) validate() error {
	var faults []error
	if n.MAC[0]&1 != 0 {
		faults = append(faults, fmt.Errorf("%v is the address of a group of cards", net.HardwareAddr(n.MAC[:])))
	}
	switch n.Kind {
	case NetUser:
		faults = append(faults, n.User.Validate())
	case NetTap, NetMacvtap:
		if n.Name == "" || len(n.Name) >= unix.IFNAMSIZ {
			faults = append(faults, fmt.Errorf("%s %q: an interface's name has 1 to %d bytes", n.Kind, n.Name, unix.IFNAMSIZ-1))
		}
		if n.Kind == NetMacvtap && n.MAC != [6]byte{} {
			faults = append(faults, fmt.Errorf("macvtap %s: the card has the interface's address: set it there", n.Name))
		}
	case NetStream:
		if n.Name == "" {
			faults = append(faults, errors.New("stream: no path of a socket"))
		}
	default:
		faults = append(faults, fmt.Errorf("kind %q: must be user, tap or macvtap", n.Kind))
	}
	if n.Gateway.IsValid() && !n.Address.IsValid() {
		faults = append(faults, fmt.Errorf("gateway %v without an address", n.Gateway))
	}
	return errors.Join(faults...)
}

// addNet gives the guest its network card i.
func (d *devices) addNet(v *VM, irqs interrupts, i int) error {
	n := &v.cfg.Nets[i]
	mac := n.mac(i)
	var back network.Network
	var err error
	switch n.Kind {
	case NetUser:
		back, err = usernet.New(n.User)
	case NetTap:
		back, err = network.OpenTap(n.Name, v.cfg.cpus())
	case NetMacvtap:
		back, mac, err = network.OpenMacvtap(n.Name)
	case NetStream:
		back, err = dialStream(n.Name)
	}
	if err != nil {
		return err
	}
	d.closers = append(d.closers, back)
	dev, err := virtio.NewNet(mac, back)
	if err != nil {
		return err
	}
	return d.add(v, irqs, fmt.Sprintf("net %d", i), dev)
}

func dialStream(path string) (network.Network, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	return network.NewStream(conn, usernet.Offloads), nil
}

// mac returns the address of card i. A network of the host has other cards, so it follows from the host and the
// tap; one of our own has no other.
func (n *Net) mac(i int) [6]byte {
	if n.MAC != [6]byte{} {
		return n.MAC
	}
	mac := [6]byte{5: byte(i + 1)}
	if n.Kind == NetTap {
		id, err := os.ReadFile("/etc/machine-id")
		if err != nil {
			id = nil // taps of one host still differ
		}
		sum := sha256.Sum256(append(id, n.Name...))
		copy(mac[1:], sum[:])
	}
	mac[0] = 0x02 // locally administered
	return mac
}

// ServeNet joins a network without privileges to the card at the other end of conn, whose kind is NetStream, until conn ends.
func ServeNet(conn net.Conn, s *usernet.Stack) error { return network.Serve(conn, s) }
