package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	card         = "eth0"
	tap          = "tap0" // on the host
	servedPort   = 7000
	transferSize = 32 << 20 // bytes each way
	chunkSize    = 64 << 10 // bytes
)

// What a connection is for: its first byte.
const (
	toGuest   = 'd'
	fromGuest = 'u'
)

// chunk is what is sent over and over.
func chunk() []byte {
	p := make([]byte, chunkSize)
	for i := 0; i < len(p); i += 4 {
		binary.LittleEndian.PutUint32(p[i:], uint32(i))
	}
	return p
}

func send(w io.Writer) error {
	p := chunk()
	for range transferSize / chunkSize {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func receive(r io.Reader) error {
	want, got := chunk(), make([]byte, chunkSize)
	for range transferSize / chunkSize {
		if _, err := io.ReadFull(r, got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errors.New("not what was sent")
		}
	}
	return nil
}

// measureNet measures TCP in both directions where there is a card. The last four bytes of its address are the guest's
// IP address; the host is the second one of that network, as with QEMU's user network.
func measureNet() error {
	eth, err := net.InterfaceByName(card)
	if err != nil {
		return nil // no card
	}
	address := net.IP(eth.HardwareAddr[2:6])
	if err := setAddress(card, address); err != nil {
		return fmt.Errorf("set %s up: %w", card, err)
	}
	server := net.TCPAddr{IP: net.IPv4(address[0], address[1], address[2], 2), Port: servedPort}
	down, err := transfer(&server, toGuest)
	if err != nil {
		return fmt.Errorf("to the guest: %w", err)
	}
	up, err := transfer(&server, fromGuest)
	if err != nil {
		return fmt.Errorf("from the guest: %w", err)
	}
	fmt.Printf("net: down_us=%d up_us=%d\n", down.Microseconds(), up.Microseconds())
	return nil
}

// transfer asks the host for a transfer; its last byte is the receiver's answer.
func transfer(server *net.TCPAddr, direction byte) (time.Duration, error) {
	c, err := net.DialTCP("tcp4", nil, server)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	begin := time.Now()
	if _, err := c.Write([]byte{direction}); err != nil {
		return 0, err
	}
	if direction == toGuest {
		err = receive(c)
	} else if err = send(c); err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return time.Since(begin), err
}

// serveNet makes a tap with an address, and serves transfers there and on the host's loopback until it is killed.
func serveNet(address string) error {
	if err := makeTap(tap); err != nil {
		return fmt.Errorf("make a tap: %w", err)
	}
	if err := errors.Join(setAddress(tap, net.ParseIP(address)), setAddress("lo", net.IPv4(127, 0, 0, 1))); err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: servedPort})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := answer(c); err != nil {
				fmt.Println("transfer:", err)
			}
		}()
	}
}

func answer(c net.Conn) error {
	var direction [1]byte
	if _, err := io.ReadFull(c, direction[:]); err != nil {
		return err
	}
	if direction[0] == toGuest {
		return send(c)
	}
	if err := receive(c); err != nil {
		return err
	}
	_, err := c.Write(direction[:])
	return err
}

// makeTap makes a tap with one queue, which stays.
func makeTap(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}

// setAddress gives a network interface an address in a network of 8 bits, and switches it on.
func setAddress(name string, address net.IP) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address.To4()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil }},
	} {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := step.set(ifr); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.request, ifr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
