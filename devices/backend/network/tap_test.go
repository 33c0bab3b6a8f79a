package network

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestTapDetached: a queue that belongs to no interface has no frames, which is no fault of the card's: the
// guest may detach one that is being read.
func TestTapDetached(t *testing.T) {
	q, err := openTapQueue(tunDevice, "none")
	if err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	defer q.close()
	frame := make([]byte, MaxFrame)
	if n, err := q.Receive(frame, false); n != 0 || err != nil {
		t.Errorf("without waiting: %d bytes, %v", n, err)
	}
	q.Interrupt()
	if n, err := q.Receive(frame, true); n != 0 || !errors.Is(err, ErrInterrupted) {
		t.Errorf("interrupted: %d bytes, %v", n, err)
	}
}

// tapLoop is a tap with something at the host's end.
type tapLoop struct {
	t      testing.TB
	q      *tapQueue
	socket int // sends to the guest
	to     unix.Sockaddr
	frame  []byte // for both directions
	got    []byte
}

// newTapLoop makes a tap that is gone at the end of the test.
func newTapLoop(t testing.TB) *tapLoop {
	t.Helper()
	q, err := openTapQueue(tunDevice, "")
	if err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	t.Cleanup(func() { q.close() })
	const name = "stile-test%d"
	if err := q.join(name, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR); err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	t.Cleanup(func() { unix.Close(socket) })
	ifr, err := unix.NewIfreq("lo") // for a name that the kernel fills in
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(q.number, unix.TUNGETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	i, err := net.InterfaceByName(ifr.Name())
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, ifr); err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	l := &tapLoop{t: t, q: q, socket: socket, to: &unix.SockaddrLinklayer{Ifindex: i.Index}}
	l.frame, l.got = make([]byte, HeaderSize+EthernetSize+1500), make([]byte, MaxFrame)
	copy(l.frame[HeaderSize:], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(l.frame[HeaderSize+12:], 0x88b5) // for experiments (IEEE 802): nobody takes it
	return l
}

// send is a frame of the guest.
func (l *tapLoop) send(pieces [][]byte) {
	if err := l.q.Send(pieces); err != nil {
		l.t.Fatal(err)
	}
}

// receive is a frame of the host. Others, by which the host looks for neighbours, are passed over.
func (l *tapLoop) receive() {
	if err := unix.Sendto(l.socket, l.frame[HeaderSize:], 0, l.to); err != nil {
		l.t.Fatal(err)
	}
	for {
		n, err := l.q.Receive(l.got, true)
		if err != nil {
			l.t.Fatal(err)
		}
		if n == len(l.frame) && binary.BigEndian.Uint16(l.got[HeaderSize+12:]) == 0x88b5 {
			return
		}
	}
}

// TestTapAllocations holds that a frame costs no allocation, either way. The sender of frames to the guest has two of its own.
func TestTapAllocations(t *testing.T) {
	testenv.Allocations(t)
	l := newTapLoop(t)
	pieces := [][]byte{l.frame[:HeaderSize], l.frame[HeaderSize:]}
	l.send(pieces)
	if n := testing.AllocsPerRun(200, func() { l.send(pieces) }); n != 0 {
		t.Errorf("%v allocations for a frame from the guest", n)
	}
	sender := testing.AllocsPerRun(200, func() {
		if err := unix.Sendto(l.socket, l.frame[HeaderSize:], 0, l.to); err != nil {
			t.Fatal(err)
		}
	})
	for n := 1; n > 0; {
		var err error
		if n, err = l.q.Receive(l.got, false); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(200, l.receive); n > sender {
		t.Errorf("%v allocations for a frame to the guest, of which %v are its sender's", n, sender)
	}
}

// BenchmarkTap is what the host's kernel takes for a frame of 1,500 bytes.
func BenchmarkTap(b *testing.B) {
	l := newTapLoop(b)
	pieces := [][]byte{l.frame[:HeaderSize], l.frame[HeaderSize:]}
	b.Run("send", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.send(pieces)
		}
	})
	b.Run("sent by the host and received", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.receive()
		}
	})
}
