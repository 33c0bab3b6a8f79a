package virtio_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

const (
	guestCID    = 42
	rxBuffers   = 16
	rxBufSize   = 4096
	vsockHeader = 44
)

// Operations and flags (virtio 1.3, 5.10.6).
const (
	opRequest = iota + 1
	opResponse
	opRST
	opShutdown
	opRW
	opUpdate
	opAsk

	noReceive = 1
	noSend    = 2
)

// socketPair returns two ends of a UNIX stream.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// packet is a vsock packet with its data.
type packet struct {
	src, dst         uint64
	srcPort, dstPort uint32
	kind, op         uint16
	flags            uint32
	alloc, fwd       uint32
	data             []byte
}

// vsockGuest is a guest's end of a vsock device.
type vsockGuest struct {
	t    testing.TB
	m    *virtiotest.Machine
	d    *virtiotest.Driver
	dev  *virtio.Vsock
	bufs [64]struct { // by descriptor
		addr uint64
		b    []byte
	}
	tx    uint64
	txBuf []byte

	alloc, fwd uint32 // what it tells of its own buffer
}

// newVsockGuest starts a device whose host refuses all ports but 80, for which it connects to what host returns.
func newVsockGuest(t testing.TB, host func() (virtio.VsockStream, error)) *vsockGuest {
	t.Helper()
	g := &vsockGuest{t: t, m: virtiotest.New(t), alloc: 64 << 10}
	g.dev = virtio.NewVsock(guestCID, func(port uint32) (virtio.VsockStream, error) {
		if port != 80 || host == nil {
			return nil, errors.New("refused")
		}
		return host()
	})
	t.Cleanup(func() { g.dev.Close() })
	_, g.d = g.m.Plug(g.dev)
	g.start()
	g.tx, g.txBuf = g.m.Alloc(vsockHeader + 256<<10)
	return g
}

// start brings the device up, with buffers for it.
func (g *vsockGuest) start() {
	g.d.Start(g.d.Features(), 2)
	for range rxBuffers {
		addr, b := g.m.Alloc(rxBufSize)
		g.give(addr, b)
	}
	g.d.Kick(0)
}

func (g *vsockGuest) give(addr uint64, b []byte) {
	head, ok := g.d.Rings[0].Add(virtqtest.Buf{Addr: addr, Len: uint32(len(b)), Write: true})
	if !ok {
		g.t.Fatal("rx ring full")
	}
	g.bufs[head].addr, g.bufs[head].b = addr, b
}

// send sends a packet as the guest. length is what the header says of data, as is where it is negative.
func (g *vsockGuest) send(p packet, length int) {
	g.t.Helper()
	if p.src == 0 {
		p.src = guestCID
	}
	if p.dst == 0 {
		p.dst = 2
	}
	if p.kind == 0 {
		p.kind = 1
	}
	if length < 0 {
		length = len(p.data)
	}
	le := binary.LittleEndian
	h := g.txBuf[:vsockHeader]
	le.PutUint64(h[0:], p.src)
	le.PutUint64(h[8:], p.dst)
	le.PutUint32(h[16:], p.srcPort)
	le.PutUint32(h[20:], p.dstPort)
	le.PutUint32(h[24:], uint32(length))
	le.PutUint16(h[28:], p.kind)
	le.PutUint16(h[30:], p.op)
	le.PutUint32(h[32:], p.flags)
	le.PutUint32(h[36:], g.alloc)
	le.PutUint32(h[40:], g.fwd)
	copy(g.txBuf[vsockHeader:], p.data)
	g.transmit(vsockHeader + len(p.data))
}

// transmit sends what is in the buffer and waits until the device has taken it.
func (g *vsockGuest) transmit(n int) {
	g.t.Helper()
	r := g.d.Rings[1]
	if _, ok := r.Add(virtqtest.Buf{Addr: g.tx, Len: uint32(n)}); !ok {
		g.t.Fatal("tx ring full")
	}
	g.d.Kick(1)
	g.until("the device to take a packet", func() bool {
		_, _, ok := r.Used()
		return ok
	})
}

func (g *vsockGuest) until(what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			g.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Microsecond)
	}
}

// receive returns the device's next packet. Its buffer is the device's again.
func (g *vsockGuest) receive() packet {
	g.t.Helper()
	var p packet
	g.until("a packet", func() bool {
		var ok bool
		p, ok = g.poll()
		return ok
	})
	return p
}

func (g *vsockGuest) poll() (packet, bool) {
	head, n, ok := g.d.Rings[0].Used()
	if !ok {
		return packet{}, false
	}
	buf := g.bufs[head]
	if n < vsockHeader || int(n) > len(buf.b) {
		g.t.Fatalf("packet of %d bytes", n)
	}
	le, h := binary.LittleEndian, buf.b
	p := packet{
		src: le.Uint64(h[0:]), dst: le.Uint64(h[8:]), srcPort: le.Uint32(h[16:]), dstPort: le.Uint32(h[20:]),
		kind: le.Uint16(h[28:]), op: le.Uint16(h[30:]), flags: le.Uint32(h[32:]), alloc: le.Uint32(h[36:]), fwd: le.Uint32(h[40:]),
		data: bytes.Clone(h[vsockHeader:n]),
	}
	if int(le.Uint32(h[24:])) != len(p.data) {
		g.t.Fatalf("packet of %d bytes says %d", len(p.data), le.Uint32(h[24:]))
	}
	g.give(buf.addr, buf.b)
	g.d.Kick(0)
	return p, true
}

// want receives a packet of that operation.
func (g *vsockGuest) want(op uint16) packet {
	g.t.Helper()
	p := g.receive()
	if p.op != op {
		g.t.Fatalf("got operation %d (%+v), want %d", p.op, p, op)
	}
	return p
}

// open connects the guest's port with the host's port 80.
func (g *vsockGuest) open(port uint32) {
	g.t.Helper()
	g.send(packet{srcPort: port, dstPort: 80, op: opRequest}, -1)
	if p := g.want(opResponse); p.srcPort != 80 || p.dstPort != port || p.src != 2 || p.dst != guestCID || p.alloc == 0 {
		g.t.Fatalf("response %+v", p)
	}
}

func pairHost(t testing.TB) (func() (virtio.VsockStream, error), *net.UnixConn) {
	near, far := socketPair(t)
	return func() (virtio.VsockStream, error) { return near, nil }, far
}

func TestVsockGuestConnects(t *testing.T) {
	host, far := pairHost(t)
	g := newVsockGuest(t, host)
	if got := g.d.Device(0, 8); got != guestCID {
		t.Errorf("CID %d", got)
	}
	g.send(packet{srcPort: 1000, dstPort: 81, op: opRequest}, -1)
	g.want(opRST) // nobody there
	g.open(1000)
	g.send(packet{srcPort: 1000, dstPort: 80, op: opRW, data: []byte("ping")}, -1)
	b := make([]byte, 4)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "ping" {
		t.Fatalf("host got %q, %v", b, err)
	}
	if _, err := far.Write([]byte("pong!")); err != nil {
		t.Fatal(err)
	}
	if p := g.want(opRW); string(p.data) != "pong!" || p.fwd != 4 {
		t.Errorf("guest got %+v", p)
	}
	// Half-close by the host: the guest can still send.
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if p := g.want(opShutdown); p.flags != noSend {
		t.Errorf("flags %d", p.flags)
	}
	g.send(packet{srcPort: 1000, dstPort: 80, op: opRW, data: []byte("last")}, -1)
	g.send(packet{srcPort: 1000, dstPort: 80, op: opShutdown, flags: noSend | noReceive}, -1)
	if rest, err := io.ReadAll(far); string(rest) != "last" || err != nil {
		t.Errorf("host got %q, %v", rest, err)
	}
	g.want(opRST)
	g.send(packet{srcPort: 1000, dstPort: 80, op: opRW, data: []byte("?")}, -1)
	g.want(opRST) // gone
}

func TestVsockGuestHalfCloses(t *testing.T) {
	host, far := pairHost(t)
	g := newVsockGuest(t, host)
	g.open(7)
	g.send(packet{srcPort: 7, dstPort: 80, op: opRW, data: []byte("question")}, -1)
	g.send(packet{srcPort: 7, dstPort: 80, op: opShutdown, flags: noSend}, -1)
	if all, err := io.ReadAll(far); string(all) != "question" || err != nil {
		t.Fatalf("host got %q, %v", all, err)
	}
	if _, err := far.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if p := g.want(opRW); string(p.data) != "answer" {
		t.Errorf("guest got %+v", p)
	}
	far.Close()
	if p := g.want(opShutdown); p.flags != noSend {
		t.Errorf("flags %d", p.flags)
	}
	g.send(packet{srcPort: 7, dstPort: 80, op: opShutdown, flags: noSend | noReceive}, -1)
	g.want(opRST)
}

func TestVsockHostConnects(t *testing.T) {
	g := newVsockGuest(t, nil)
	near, far := socketPair(t)
	var port atomic.Uint32
	if err := g.dev.Connect(22, near, func(p uint32) error { port.Store(p); return nil }); err != nil {
		t.Fatal(err)
	}
	p := g.want(opRequest)
	if p.dstPort != 22 || p.src != 2 {
		t.Fatalf("request %+v", p)
	}
	g.send(packet{srcPort: 22, dstPort: p.srcPort, op: opResponse}, -1)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := g.want(opRW); string(got.data) != "hello" || port.Load() != p.srcPort {
		t.Errorf("guest got %+v, opened with port %d", got, port.Load())
	}
	g.send(packet{srcPort: 22, dstPort: p.srcPort, op: opRST}, -1)
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after a reset the host reads %v", err)
	}
	// One that is refused.
	near, far = socketPair(t)
	if err := g.dev.Connect(23, near, func(uint32) error { t.Error("opened"); return nil }); err != nil {
		t.Fatal(err)
	}
	p = g.want(opRequest)
	g.send(packet{srcPort: 23, dstPort: p.srcPort, op: opRST}, -1)
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("refused: %v", err)
	}
	g.d.Reset()
	if err := g.dev.Connect(22, near, nil); !errors.Is(err, virtio.ErrVsock) {
		t.Errorf("without a driver: %v", err)
	}
}

// Much data both ways at once, with credit that runs out on both sides.
func TestVsockTransfer(t *testing.T) {
	host, far := pairHost(t)
	g := newVsockGuest(t, host)
	g.alloc = 10000
	g.open(9)
	const size = 4 << 20
	up, down := make([]byte, size), make([]byte, size)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(up)
	_, _ = src.Read(down)
	var hostGot [32]byte
	var hosts sync.WaitGroup
	hosts.Go(func() {
		h := sha256.New()
		_, _ = io.Copy(h, far)
		h.Sum(hostGot[:0])
	})
	hosts.Go(func() {
		_, _ = far.Write(down)
		_ = far.CloseWrite()
	})
	var got bytes.Buffer
	var room, sent, peer uint32 = 128 << 10, 0, 0
	ended := false
	for sent < size || !ended {
		if p, ok := g.poll(); ok {
			peer, room = p.fwd, p.alloc
			switch p.op {
			case opRW:
				got.Write(p.data)
				if g.fwd += uint32(len(p.data)); len(p.data) > int(g.alloc) {
					t.Fatalf("%d bytes without credit", len(p.data))
				}
				g.send(packet{srcPort: 9, dstPort: 80, op: opUpdate}, -1)
			case opAsk:
				g.send(packet{srcPort: 9, dstPort: 80, op: opUpdate}, -1)
			case opShutdown:
				ended = true
			case opRST:
				t.Fatal("reset")
			}
		}
		if free := room - (sent - peer); sent < size && free > 0 {
			n := min(free, size-sent, 30000)
			g.send(packet{srcPort: 9, dstPort: 80, op: opRW, data: up[sent : sent+n]}, -1)
			sent += n
		}
	}
	g.send(packet{srcPort: 9, dstPort: 80, op: opShutdown, flags: noSend | noReceive}, -1)
	hosts.Wait()
	if !bytes.Equal(got.Bytes(), down) {
		t.Errorf("the guest got %d bytes of %d, or others", got.Len(), size)
	}
	if hostGot != sha256.Sum256(up) {
		t.Error("the host got something else")
	}
}
