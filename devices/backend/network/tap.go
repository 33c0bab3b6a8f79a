package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

// tunDevice is what a tap is opened by.
const tunDevice = "/dev/net/tun"

// Requests and flags of linux/if_tun.h that x/sys lacks.
const (
	tunOffloadCsum = 0x01
	tunOffloadTSO4 = 0x02
	tunOffloadTSO6 = 0x04
	tunOffloadECN  = 0x08
)

// tap is a tap or macvtap of the host, one queue for each pair.
type tap struct {
	name    string
	mtu     int
	queues  []*tapQueue
	macvtap bool
}

// OpenTap opens an existing tap of the host: with several queues, up to MaxQueues and no more than wanted, if it was
// made for them ("ip tuntap add NAME mode tap multi_queue").
func OpenTap(name string, wanted int) (Network, error) {
	mtu, err := readNumber(name, "mtu")
	if err != nil {
		return nil, noTap(name, err)
	}
	flags, err := readNumber(name, "tun_flags")
	if err != nil {
		return nil, noTap(name, err)
	}
	if flags&unix.IFF_TAP == 0 {
		return nil, fmt.Errorf("%s is a tun, which has no Ethernet: make a tap (`ip tuntap add %s mode tap`)", name, name)
	}
	n := 1
	if flags&unix.IFF_MULTI_QUEUE != 0 {
		n = max(1, min(wanted, MaxQueues))
	}
	t := &tap{name: name, mtu: mtu}
	for i := range n {
		q, err := openTapQueue(tunDevice, name)
		if err == nil {
			t.queues = append(t.queues, q)
			err = q.join(name, uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR|flags&unix.IFF_MULTI_QUEUE))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("tap %s, queue %d: %w", name, i, err), t.Close())
		}
	}
	return t, nil
}

func noTap(name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no tap is named %s: make one, as root, with `ip tuntap add %s mode tap user $USER` and `ip link set %s up`", name, name, name)
	}
	return fmt.Errorf("tap %s: %w", name, err)
}

// OpenMacvtap opens a macvtap of the host. The card must have the address that it returns: frames to others do not
// reach it.
func OpenMacvtap(name string) (Network, [6]byte, error) {
	var mac [6]byte
	index, err := readNumber(name, "ifindex")
	if err != nil {
		return nil, mac, fmt.Errorf("no macvtap is named %s: make one, as root, with `ip link add link DEVICE name %s type macvtap mode bridge`: %w", name, name, err)
	}
	path := "/dev/tap" + strconv.Itoa(index)
	mtu, err := readNumber(name, "mtu")
	if err != nil {
		return nil, mac, fmt.Errorf("macvtap %s: %w", name, err)
	}
	address, err := os.ReadFile(filepath.Join(interfaces, name, "address"))
	if err != nil {
		return nil, mac, fmt.Errorf("macvtap %s: %w", name, err)
	}
	parsed, err := net.ParseMAC(strings.TrimSpace(string(address)))
	if err != nil || len(parsed) != len(mac) {
		return nil, mac, fmt.Errorf("macvtap %s: address %q", name, address)
	}
	q, err := openTapQueue(path, name)
	if err != nil {
		return nil, mac, fmt.Errorf("macvtap %s: %w", name, err)
	}
	t := &tap{name: name, mtu: mtu, queues: []*tapQueue{q}, macvtap: true}
	if err := q.join("", unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR); err != nil {
		return nil, mac, errors.Join(fmt.Errorf("macvtap %s: %w", name, err), t.Close())
	}
	return t, [6]byte(parsed), nil
}

// interfaces is where the kernel describes the host's network interfaces.
const interfaces = "/sys/class/net"

// readNumber reads a file of an interface, decimal or with 0x.
func readNumber(name, file string) (int, error) {
	text, err := os.ReadFile(filepath.Join(interfaces, name, file))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", file, name, err)
	}
	return int(n), nil
}

func (t *tap) Queues() []Queue {
	var queues []Queue
	for _, q := range t.queues {
		queues = append(queues, q)
	}
	return queues
}

func (t *tap) Offloads() Offload { return Csum | TSO4 | TSO6 | ECN }

func (t *tap) MTU() int { return t.mtu }

// SetOffloads implements Network. The kernel keeps them for the interface, or with a macvtap for the queue.
func (t *tap) SetOffloads(o Offload) error {
	var arg uintptr
	for _, bit := range []struct {
		offload Offload
		flag    uintptr
	}{{Csum, tunOffloadCsum}, {TSO4, tunOffloadTSO4}, {TSO6, tunOffloadTSO6}, {ECN, tunOffloadECN}} {
		if o&bit.offload != 0 {
			arg |= bit.flag
		}
	}
	if arg&tunOffloadCsum == 0 || arg&(tunOffloadTSO4|tunOffloadTSO6) == 0 {
		arg &^= tunOffloadECN // not without what it modifies
	}
	if _, err := t.queues[0].fd.Ioctl(unix.TUNSETOFFLOAD, arg); err != nil {
		return fmt.Errorf("tap %s: offloads %#x: %w", t.name, arg, err)
	}
	return nil
}

// SetActive implements Network: the kernel spreads what comes in over the queues that are attached.
func (t *tap) SetActive(n int) error {
	for i := range t.queues {
		q := t.queues[i]
		if t.macvtap || i < n != q.detached {
			continue
		}
		flags := uint16(unix.IFF_DETACH_QUEUE)
		if i < n {
			flags = unix.IFF_ATTACH_QUEUE
		}
		var r ifreq
		r.setFlags(flags)
		if _, err := sys.IoctlPtr(q.fd, unix.TUNSETQUEUE, &r); err != nil {
			return fmt.Errorf("tap %s: queue %d: %w", t.name, i, err)
		}
		q.detached = i >= n
	}
	return nil
}

func (t *tap) Close() error {
	var errs []error
	for _, q := range t.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}

// ifreq is struct ifreq (linux/if.h): a name, and flags here.
type ifreq [40]byte

func (r *ifreq) setName(name string) { copy(r[:unix.IFNAMSIZ-1], name) }

func (r *ifreq) setFlags(flags uint16) { binary.LittleEndian.PutUint16(r[unix.IFNAMSIZ:], flags) }

// tapQueue is one queue.
type tapQueue struct {
	fd        *sys.FD
	number    int // of fd
	interrupt *sys.EventFD
	detached  bool // the kernel gives it no frames
	out       sys.Vector
	fds       [2]unix.PollFd
}

func openTapQueue(path, name string) (*tapQueue, error) {
	fd, err := sys.Open(path, unix.O_RDWR|unix.O_NONBLOCK)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: give yourself access to it, for a tap with `ip tuntap add %s mode tap user $USER`", err, name)
	}
	if err != nil {
		return nil, err
	}
	interrupt, err := sys.NewEventFD()
	if err != nil {
		return nil, errors.Join(err, fd.Close())
	}
	q := &tapQueue{fd: fd, number: fd.Int(), interrupt: interrupt}
	q.fds = [2]unix.PollFd{{Fd: int32(q.number), Events: unix.POLLIN}, {Fd: int32(interrupt.Int()), Events: unix.POLLIN}}
	return q, nil
}

// join makes the descriptor a queue of the interface, with our header.
func (q *tapQueue) join(name string, flags uint16) error {
	var r ifreq
	r.setName(name)
	r.setFlags(flags)
	if _, err := sys.IoctlPtr(q.fd, unix.TUNSETIFF, &r); err != nil {
		switch {
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("somebody else has it open: %w", err)
		case errors.Is(err, unix.EPERM):
			err = fmt.Errorf("it belongs to another user, make it with `ip tuntap add %s mode tap user $USER`: %w", name, err)
		}
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	size := int32(HeaderSize)
	if _, err := sys.IoctlPtr(q.fd, unix.TUNSETVNETHDRSZ, &size); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	return nil
}

// Send implements Queue. The kernel copies the frame's header before it looks at it.
func (q *tapQueue) Send(pieces [][]byte) error {
	q.out.Set(pieces)
	_, err := q.out.WriteTo(q.number)
	return err
}

// Receive implements Queue.
func (q *tapQueue) Receive(frame []byte, wait bool) (int, error) {
	for {
		n, err := unix.Read(q.number, frame)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EINTR:
			continue
		case err != unix.EAGAIN && err != unix.EBADFD:
			return 0, fmt.Errorf("tap: %w", err)
		case !wait:
			return 0, nil
		case err == unix.EBADFD: // drivers/net/tun.c: not attached, as while SetActive is under way
			return 0, q.awaitInterrupt()
		}
		if _, err := sys.Retry(func() (int, error) { return unix.Poll(q.fds[:], -1) }); err != nil {
			return 0, fmt.Errorf("wait for the tap: %w", err)
		}
		if q.interrupt.TryWait() > 0 {
			return 0, ErrInterrupted
		}
		if q.fds[0].Revents&^unix.POLLIN != 0 && q.fds[0].Revents&unix.POLLIN == 0 {
			return 0, q.awaitInterrupt()
		}
	}
}

// awaitInterrupt waits where there will be no more frames: the interface is gone, or the queue detached.
func (q *tapQueue) awaitInterrupt() error {
	if _, err := q.interrupt.Wait(); err != nil {
		return err
	}
	return ErrInterrupted
}

func (q *tapQueue) Interrupt() { _ = q.interrupt.Signal() } // fails only when closed

func (q *tapQueue) close() error { return errors.Join(q.interrupt.Close(), q.fd.Close()) }
