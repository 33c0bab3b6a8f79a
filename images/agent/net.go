package agent

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

const (
	// netCards finds the interfaces of virtio network cards, by their PCI addresses: the folder of a device is
	// …/0000:00:05.0/virtio3/net/eth0.
	netCards = "sys/bus/pci/devices/*/virtio*/net/*"

	netLimit    = 20 * time.Second
	netInterval = 10 * time.Millisecond
)

// setupNets sets up the machine's network cards.
func setupNets(nets []agentproto.Net) error {
	if len(nets) == 0 {
		return nil
	}
	names, err := awaitCards("/", len(nets))
	if err != nil {
		return err
	}
	conn, err := dialNetlink()
	if err != nil {
		return err
	}
	defer conn.close()
	for i := range nets {
		if err := conn.setup(names[i], &nets[i]); err != nil {
			return fmt.Errorf("network card %s: %w", names[i], err)
		}
	}
	return nil
}

// awaitCards returns the interfaces of the first n cards; their drivers may be looking at them just now.
func awaitCards(root string, n int) ([]string, error) {
	for end := time.Now().Add(netLimit); ; time.Sleep(netInterval) {
		paths, err := filepath.Glob(filepath.Join(root, netCards))
		if err != nil {
			return nil, err
		}
		if len(paths) >= n {
			slices.Sort(paths)
			var names []string
			for _, path := range paths[:n] {
				names = append(names, filepath.Base(path))
			}
			return names, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("of %d network cards %d appeared within %v: the kernel needs a driver for virtio-net", n, len(paths), netLimit)
		}
	}
}

// netlink is a connection to the kernel's routing tables (rtnetlink(7)).
type netlink struct {
	fd  int
	seq uint32
}

func dialNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	return &netlink{fd: fd}, nil
}

func (c *netlink) close() { unix.Close(c.fd) }

// setup switches a card on, and gives it its addresses and its ways out. A kernel without IPv6 goes without that.
func (c *netlink) setup(name string, n *agentproto.Net) error {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	index := uint32(card.Index)
	conf := "/proc/sys/net/ipv6/conf/" + name
	disabled, err := os.ReadFile(conf + "/disable_ipv6")
	hasIPv6 := err == nil && strings.TrimSpace(string(disabled)) == "0"
	if hasIPv6 && slices.ContainsFunc(n.Addresses, func(a string) bool { return strings.Contains(a, ":") }) {
		// What the network's router says would come later, and again.
		if err := os.WriteFile(conf+"/accept_ra", []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := c.do(unix.RTM_NEWLINK, 0, linkUp(index)); err != nil {
		return fmt.Errorf("switch on: %w", err)
	}
	for _, text := range n.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		if prefix.Addr().Is6() && !hasIPv6 {
			continue
		}
		if err := c.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, newAddress(index, prefix)); err != nil {
			return fmt.Errorf("address %v: %w", prefix, err)
		}
	}
	for _, text := range n.Gateways {
		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		if gateway.Is6() && !hasIPv6 {
			continue
		}
		if err := c.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, defaultRoute(index, gateway)); err != nil && err != unix.EEXIST {
			return fmt.Errorf("gateway %v: %w", gateway, err)
		}
	}
	return nil
}

// do sends a request and waits for the kernel's acknowledgement.
func (c *netlink) do(kind uint16, flags uint16, body []byte) error {
	c.seq++
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(b[0:], uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[8:], c.seq)
	if err := unix.Sendto(c.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, os.Getpagesize())
	for {
		n, _, err := unix.Recvfrom(c.fd, answer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR ||
			binary.NativeEndian.Uint32(answer[8:]) != c.seq {
			continue
		}
		if errno := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); errno != 0 {
			return unix.Errno(-errno)
		}
		return nil
	}
}

// linkUp is struct ifinfomsg with IFF_UP.
func linkUp(index uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	return b
}

// newAddress is struct ifaddrmsg with its attributes. Nobody else has an IPv6 address of ours, so the card need not ask first.
func newAddress(index uint32, p netip.Prefix) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(p.Addr()), byte(p.Bits())
	if p.Addr().Is6() {
		b[2] = unix.IFA_F_NODAD
	}
	binary.NativeEndian.PutUint32(b[4:], index)
	b = attribute(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	return attribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// defaultRoute is struct rtmsg with its attributes.
func defaultRoute(index uint32, gateway netip.Addr) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[4], b[5], b[6], b[7] = family(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attribute(b, unix.RTA_GATEWAY, gateway.AsSlice())
	return attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attribute appends struct rtattr. All values here are multiples of 4 bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}
