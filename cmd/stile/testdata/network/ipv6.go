package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	gateway6 = "fd73:7469:6c65::2"
	// The second card's network, and its address there.
	secondCard     = "eth1"
	secondNetwork  = "10.0.3.15/24"
	secondNetwork6 = "fd73:7469:6c65:1::/64"
)

// refusedDatagram sends one to a port of the host that nobody serves.
func refusedDatagram(host string) error {
	c, err := net.Dial("udp", net.JoinHostPort(host, "1"))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("a datagram to %s that nobody takes: %w", host, err)
	}
	return nil
}

// ipv6 reaches the host's ::1, and makes itself an address in the second card's network as its router says.
func ipv6(port string) error {
	response, err := http.Get("http://" + net.JoinHostPort(gateway6, port))
	if err != nil {
		return err
	}
	want, err := sum(data(size))
	if err != nil {
		return err
	}
	if got, err := sum(response.Body); err != nil || got != want {
		return fmt.Errorf("down: %s, want %s: %w", got, want, err)
	}
	if c, err := net.Dial("tcp", net.JoinHostPort(gateway6, "1")); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("a port that nobody serves: %v, %w", c, err)
	}
	if err := refusedDatagram(gateway6); err != nil {
		return err
	}
	if addresses, err := addressesOf(secondCard); err != nil || !addresses[secondNetwork] {
		return fmt.Errorf("addresses of %s: %v, %w", secondCard, addresses, err)
	}
	return autoconfigure()
}

func addressesOf(card string) (map[string]bool, error) {
	i, err := net.InterfaceByName(card)
	if err != nil {
		return nil, err
	}
	addresses, err := i.Addrs()
	found := make(map[string]bool)
	for _, a := range addresses {
		found[a.String()] = true
	}
	return found, err
}

// autoconfigure switches the second card off, which takes its addresses, and on again (RFC 4862).
func autoconfigure() error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+secondCard+"/accept_ra", []byte("1"), 0); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, flags := range []uint16{0, unix.IFF_UP} {
		request, err := unix.NewIfreq(secondCard)
		if err != nil {
			return err
		}
		request.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
			return err
		}
	}
	network := netip.MustParsePrefix(secondNetwork6)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		addresses, err := addressesOf(secondCard)
		if err != nil {
			return err
		}
		for a := range addresses {
			if p, err := netip.ParsePrefix(a); err == nil && network.Contains(p.Addr()) {
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("no address of %v, but %v", network, addresses)
		}
	}
}
