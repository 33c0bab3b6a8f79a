package main

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Messages and options (RFC 2131, RFC 2132).
const (
	discover = 1
	offer    = 2
	request  = 3
	ack      = 5

	optionMask   = 1
	optionRouter = 3
	optionDNS    = 6
	optionAsked  = 50
	optionType   = 53
	optionServer = 54
	optionEnd    = 255

	dhcpOptions = 240 // where they begin
	dhcpID      = 0x7e57
)

// lease takes the card's address from it and asks for one by DHCP, as a guest without stile's agent does.
func lease() error {
	s, err := dhcpSocket()
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := dropAddress("eth0"); err != nil {
		return fmt.Errorf("drop the address: %w", err)
	}
	offered, options, err := ask(s, discover, offer, nil)
	if err != nil {
		return err
	}
	if offered.String() != "10.0.2.15" || net.IP(options[optionRouter]).String() != gateway ||
		net.IP(options[optionDNS]).String() != "10.0.2.3" || net.IPMask(options[optionMask]).String() != "ffffff00" {
		return fmt.Errorf("offer of %v with options %v", offered, options)
	}
	choice := append([]byte{optionAsked, 4}, offered...)
	choice = append(append(choice, optionServer, 4), options[optionServer]...)
	given, _, err := ask(s, request, ack, choice)
	if err != nil {
		return err
	}
	return up("eth0", given.String())
}

// dhcpSocket returns one that hears what is sent to everybody.
func dhcpSocket() (int, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, set := range []func() error{
		func() error { return unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) },
		func() error { return unix.BindToDevice(s, "eth0") },
		func() error {
			return unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
		},
		func() error { return unix.Bind(s, &unix.SockaddrInet4{Port: 68}) },
	} {
		if err := set(); err != nil {
			unix.Close(s)
			return -1, fmt.Errorf("socket for DHCP: %w", err)
		}
	}
	return s, nil
}

// dropAddress leaves an interface up, without an address.
func dropAddress(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(net.IPv4zero.To4()); err != nil {
		return err
	}
	return unix.IoctlIfreq(s, unix.SIOCSIFADDR, ifr)
}

// ask sends a message to every server and waits for an answer of that kind.
func ask(s int, kind, want byte, more []byte) (net.IP, map[byte][]byte, error) {
	card, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, nil, err
	}
	b := make([]byte, dhcpOptions)
	b[0], b[1], b[2] = 1, 1, 6 // a request, by Ethernet
	binary.BigEndian.PutUint32(b[4:], dhcpID)
	copy(b[28:], card.HardwareAddr)
	binary.BigEndian.PutUint32(b[236:], 0x63825363)
	b = append(append(append(b, optionType, 1, kind), more...), optionEnd)
	if err := unix.Sendto(s, b, 0, &unix.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}}); err != nil {
		return nil, nil, fmt.Errorf("DHCP: %w", err)
	}
	reply := make([]byte, 1500)
	n, _, err := unix.Recvfrom(s, reply, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("answer by DHCP: %w", err)
	}
	if reply = reply[:n]; n < dhcpOptions || binary.BigEndian.Uint32(reply[4:]) != dhcpID {
		return nil, nil, fmt.Errorf("answer by DHCP: %x", reply)
	}
	options := make(map[byte][]byte)
	for o := reply[dhcpOptions:]; len(o) >= 2 && o[0] != optionEnd && len(o) >= 2+int(o[1]); o = o[2+int(o[1]):] {
		options[o[0]] = o[2 : 2+int(o[1])]
	}
	if got := options[optionType]; len(got) != 1 || got[0] != want {
		return nil, nil, fmt.Errorf("answer by DHCP of type %v, want %d", got, want)
	}
	return net.IP(reply[16:20]), options, nil
}
