package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

func TestVsockRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		p      packet
		length int
		want   uint16 // 0: nothing
	}{
		{"another guest", packet{dst: 5, srcPort: 1, dstPort: 80, op: opRequest}, -1, opRST},
		{"no type", packet{kind: 2, srcPort: 1, dstPort: 80, op: opRequest}, -1, opRST},
		{"data for nobody", packet{srcPort: 1, dstPort: 80, op: opRW, data: []byte("x")}, -1, opRST},
		{"answer to nothing", packet{srcPort: 1, dstPort: 80, op: opResponse}, -1, opRST},
		{"unknown operation", packet{srcPort: 1, dstPort: 80, op: 99}, -1, opRST},
		{"reset of nothing", packet{srcPort: 1, dstPort: 80, op: opRST}, -1, 0},
		{"somebody else's address", packet{src: 77, srcPort: 1, dstPort: 80, op: opRequest}, -1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			host, _ := pairHost(t)
			g := newVsockGuest(t, host)
			g.send(test.p, test.length)
			if test.want != 0 {
				if p := g.want(test.want); p.dstPort != 1 || p.srcPort != 80 {
					t.Errorf("answer %+v", p)
				}
			}
			g.open(3)
		})
	}
}

// Packets that a connection is ended for.
func TestVsockBreaksConnection(t *testing.T) {
	for _, test := range []struct {
		name   string
		p      packet
		length int
	}{
		{"more than there is room", packet{op: opRW, data: make([]byte, 200<<10)}, -1},
		{"more than was sent", packet{op: opRW, data: []byte("x")}, 100},
		{"a length of 4 GiB", packet{op: opRW, data: []byte("x")}, 1<<32 - 1},
		{"a second request", packet{op: opRequest}, -1},
		{"a second response", packet{op: opResponse}, -1},
		{"operation 0", packet{op: 0}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			host, far := pairHost(t)
			g := newVsockGuest(t, host)
			g.open(3)
			test.p.srcPort, test.p.dstPort = 3, 80
			g.send(test.p, test.length)
			g.want(opRST)
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the host reads %v", err)
			}
		})
	}
}

// A guest that opens connections without end, and takes no packets, comes to a stop and can be reset.
func TestVsockFlood(t *testing.T) {
	var open atomic.Int32
	g := newVsockGuest(t, func() (virtio.VsockStream, error) {
		near, _ := net.Pipe()
		open.Add(1)
		return &pipeStream{Conn: near, open: &open}, nil
	})
	r := g.d.Rings[1]
	le, h := binary.LittleEndian, g.txBuf
	le.PutUint64(h[0:], guestCID)
	le.PutUint64(h[8:], 2)
	le.PutUint32(h[20:], 80)
	le.PutUint16(h[28:], 1)
	le.PutUint16(h[30:], opRequest)
	sent := uint32(0)
	for quiet := 0; quiet < 200; {
		le.PutUint32(h[16:], sent)
		if _, ok := r.Add(virtqtest.Buf{Addr: g.tx, Len: vsockHeader}); ok {
			sent++
			g.d.Kick(1)
		}
		if _, _, ok := r.Used(); ok {
			quiet = 0
			continue
		}
		quiet++
		time.Sleep(time.Millisecond)
	}
	if n := open.Load(); n > 512 {
		t.Errorf("%d connections", n)
	}
	g.d.Reset()
	g.start()
	g.send(packet{srcPort: 1, dstPort: 81, op: opRequest}, -1)
	g.want(opRST)
}

// A guest that gives connections up while the host still dials does not get more of those under way.
func TestVsockSlowDial(t *testing.T) {
	dials, answer := make(chan struct{}, 2000), make(chan struct{})
	g := newVsockGuest(t, func() (virtio.VsockStream, error) {
		dials <- struct{}{}
		<-answer
		return nil, io.ErrClosedPipe
	})
	defer close(answer)
	for port := range uint32(1000) {
		g.send(packet{srcPort: port, dstPort: 80, op: opRequest}, -1)
		g.send(packet{srcPort: port, dstPort: 80, op: opRST}, -1)
		for ok := true; ok; {
			_, ok = g.poll() // what is refused is answered
		}
	}
	if n := len(dials); n > 512 {
		t.Errorf("%d dials", n)
	}
}

// pipeStream counts those that are open.
type pipeStream struct {
	net.Conn
	open   *atomic.Int32
	closed sync.Once
}

func (*pipeStream) CloseRead() error  { return nil }
func (*pipeStream) CloseWrite() error { return nil }

func (s *pipeStream) Close() error {
	s.closed.Do(func() { s.open.Add(-1) })
	return s.Conn.Close()
}

// A host that reads nothing holds up its own connection and no other.
func TestVsockSlowHost(t *testing.T) {
	streams := make(chan *net.UnixConn, 2)
	g := newVsockGuest(t, func() (virtio.VsockStream, error) {
		near, far := socketPair(t)
		streams <- far
		return near, nil
	})
	g.open(1)
	g.open(2)
	<-streams
	quick := <-streams
	sent, peer := uint32(0), uint32(0)
	for quiet := 0; quiet < 100; {
		if free := 128<<10 - (sent - peer); free >= 1000 {
			g.send(packet{srcPort: 1, dstPort: 80, op: opRW, data: make([]byte, 1000)}, -1)
			sent += 1000
		}
		if p, ok := g.poll(); ok {
			peer, quiet = p.fwd, 0
		} else {
			quiet++
			time.Sleep(100 * time.Microsecond)
		}
	}
	g.send(packet{srcPort: 2, dstPort: 80, op: opRW, data: []byte("quick")}, -1)
	b := make([]byte, 5)
	if _, err := io.ReadFull(quick, b); err != nil || string(b) != "quick" {
		t.Errorf("the other connection: %q, %v", b, err)
	}
}

func TestHostileVsock(t *testing.T) {
	testHostile(t, func(t testing.TB) virtio.Device {
		dev := virtio.NewVsock(guestCID, func(uint32) (virtio.VsockStream, error) { return nil, errors.New("refused") })
		t.Cleanup(func() { dev.Close() })
		return dev
	})
}

// FuzzVsock sends any packets, in any order.
func FuzzVsock(f *testing.F) {
	request := make([]byte, vsockHeader)
	binary.LittleEndian.PutUint64(request[0:], guestCID)
	binary.LittleEndian.PutUint64(request[8:], 2)
	binary.LittleEndian.PutUint32(request[20:], 80)
	binary.LittleEndian.PutUint16(request[28:], 1)
	request[30] = opRequest
	data := bytes.Clone(request)
	data[30], data[24] = opRW, 4
	f.Add(request, uint8(0))
	f.Add(append(bytes.Clone(request), data...), uint8(44))
	f.Add([]byte(strings.Repeat("\x02", 100)), uint8(20))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		host, _ := pairHost(t)
		g := newVsockGuest(t, host)
		for n := int(size)%100 + 1; len(stream) > 0; {
			n = min(n, len(stream))
			// With an address that lets it in, more often than not.
			copy(g.txBuf, stream[:n])
			if n&1 == 0 {
				copy(g.txBuf, request[:16])
				copy(g.txBuf[20:], request[20:24])
			}
			g.transmit(n)
			for ok := true; ok; {
				_, ok = g.poll()
			}
			stream = stream[n:]
		}
		g.d.Reset()
		g.start()
		g.send(packet{srcPort: 5, dstPort: 81, op: opRequest}, -1)
		g.want(opRST)
	})
}

// BenchmarkVsockToHost measures packets of the guest with 4 KiB each.
func BenchmarkVsockToHost(b *testing.B) {
	host, far := pairHost(b)
	g := newVsockGuest(b, host)
	g.open(9)
	go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{far}) }()
	data := make([]byte, 4096)
	var sent, peer uint32
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		for 128<<10-(sent-peer) < uint32(len(data)) {
			if p, ok := g.poll(); ok {
				peer = p.fwd
			}
		}
		g.send(packet{srcPort: 9, dstPort: 80, op: opRW, data: data}, -1)
		sent += uint32(len(data))
	}
}
