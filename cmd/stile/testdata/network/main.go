// Command network tries a guest's network: "user" one without privileges, "tap" and "macvtap" ones with the nested host at the other
// end, where "host tap" and "host macvtap" make them and run stile.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	size    = 32 << 20 // bytes of a transfer
	tapSize = size / 4 // in the nested host, which is slower
	gateway = "10.0.2.2"
	name    = "guest.example."
	answer  = "192.0.2.77"
	ours    = "10.9.0.1"
	guests  = "10.9.0.2"
)

func main() {
	modes := map[string]func([]string) error{"user": user, "tap": tap, "macvtap": macvtap, "host": host}
	if err := modes[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
	fmt.Println("all", os.Args[1], "right")
}

// data are n bytes, everywhere the same.
func data(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes, %x", n, h.Sum(nil)), err
}

// user takes the ports of an HTTP server and of a UDP echo on the host, the port to serve here, and that of an HTTP server on the host's
// ::1.
func user(ports []string) error {
	if err := lease(); err != nil {
		return err
	}
	if addresses, err := net.DefaultResolver.LookupHost(context.Background(), name); err != nil || len(addresses) != 1 || addresses[0] != answer {
		return fmt.Errorf("name server: %v, %w", addresses, err)
	}
	want, err := sum(data(size))
	if err != nil {
		return err
	}
	url := "http://" + net.JoinHostPort(gateway, ports[0])
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	begin := time.Now()
	if got, err := sum(response.Body); err != nil || got != want {
		return fmt.Errorf("down: %s, want %s: %w", got, want, err)
	}
	rate("user, down", begin, size)
	begin = time.Now()
	if response, err = http.Post(url, "application/octet-stream", data(size)); err != nil {
		return err
	}
	if got, err := io.ReadAll(response.Body); err != nil || string(got) != want {
		return fmt.Errorf("up: %s, want %s: %w", got, want, err)
	}
	rate("user, up", begin, size)
	if c, err := net.Dial("tcp", gateway+":1"); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("a port that nobody serves: %v, %w", c, err)
	}
	if err := echo(ports[1]); err != nil {
		return err
	}
	if err := refusedDatagram(gateway); err != nil {
		return err
	}
	if err := ipv6(ports[3]); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	return serve(ports[2])
}

// rate says how fast a transfer was. Hashes and random numbers take their part.
func rate(what string, begin time.Time, n int) {
	fmt.Fprintf(os.Stderr, "%s: %.1f MB/s\n", what, float64(n)/1e6/time.Since(begin).Seconds())
}

// echo sends datagrams, one of which is cut into fragments.
func echo(port string) error {
	c, err := net.Dial("udp", net.JoinHostPort(gateway, port))
	if err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 65536)
	for _, n := range []int{10, 1472, 8000} {
		sent := bytes.Repeat([]byte{byte(n)}, n)
		if _, err := c.Write(sent); err != nil {
			return err
		}
		if got, err := c.Read(buf); err != nil || !bytes.Equal(buf[:got], sent) {
			return fmt.Errorf("datagram of %d bytes: %d, %w", n, got, err)
		}
	}
	return nil
}

// serve echoes one connection.
func serve(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(c, c)
	return err
}

// tap transfers to and from the nested host, over several pairs of queues.
func tap([]string) error {
	queues, err := filepath.Glob("/sys/class/net/eth0/queues/rx-*")
	if err != nil || len(queues) != 2 {
		return fmt.Errorf("queues %v, %w", queues, err)
	}
	return bothWays(2) // by other ports, which other queues serve
}

// macvtap takes the address that nobody gives a macvtap's card, and transfers.
func macvtap([]string) error {
	if err := up("eth0", guests); err != nil {
		return err
	}
	return bothWays(1)
}

// bothWays transfers to the nested host and from it, that many times.
func bothWays(times int) error {
	want, err := sum(data(tapSize))
	if err != nil {
		return err
	}
	begin := time.Now()
	defer func() { rate("both ways in turn", begin, 2*times*tapSize) }()
	for range times {
		c, err := net.Dial("tcp", ours+":7000")
		if err != nil {
			return err
		}
		if _, err := io.Copy(c, data(tapSize)); err != nil {
			return err
		}
		c.(*net.TCPConn).CloseWrite()
		if got, err := sum(c); err != nil || got != want {
			return fmt.Errorf("came back: %s, want %s: %w", got, want, err)
		}
	}
	return nil
}

// host makes an interface, serves on it, and runs stile.
func host(args []string) error {
	kind, command := args[0], args[1:]
	makers := map[string]func() error{"tap": makeTap, "macvtap": makeMacvtap}
	if err := makers[kind](); err != nil {
		return fmt.Errorf("make a %s: %w", kind, err)
	}
	l, err := net.Listen("tcp", ours+":7000")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := sum(c); err == nil {
					io.Copy(c, data(tapSize))
				}
			}()
		}
	}()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// makeMacvtap makes macvtap0 on one end of a cable, and gives the other end, which stands for another host, our address.
func makeMacvtap() error {
	for _, words := range []string{
		"link add cable type veth peer name other",
		"link add link cable name macvtap0 type macvtap mode bridge",
		"link set cable up",
		"link set macvtap0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", words, err, out)
		}
	}
	return up("other", ours)
}

// makeTap makes tap0, with several queues.
func makeTap() error {
	const name = "tap0"
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return err
	}
	return up(name, ours)
}

// up gives an interface an address and switches it on.
func up(name, address string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(address).To4()) }},
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
		if err := unix.IoctlIfreq(s, step.request, ifr); err != nil {
			return err
		}
	}
	return nil
}
