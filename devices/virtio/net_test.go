package virtio_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/network"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// Features of a network card (virtio 1.3, 5.1.3).
const (
	netCsum      = 1 << 0
	netGuestCsum = 1 << 1
	netGuestTSO4 = 1 << 7
	netHostTSO4  = 1 << 11
	netMerge     = 1 << 15
	netControl   = 1 << 17
	netMultiple  = 1 << 22

	netBase = allRing | 1<<5 // with the address
)

var testMAC = [6]byte{2, 0, 0, 0, 0, 9}

// wire is a network whose other end is the test.
type wire struct {
	pairs    []network.Queue
	offloads atomic.Uint32
	active   atomic.Int32
}

type wirePair struct {
	toGuest, fromGuest chan []byte
	interrupts         chan struct{}
}

func newWire(pairs int) *wire {
	w := &wire{}
	for range pairs {
		w.pairs = append(w.pairs, &wirePair{make(chan []byte, 1000), make(chan []byte, 1000), make(chan struct{}, 1)})
	}
	return w
}

func (w *wire) pair(i int) *wirePair      { return w.pairs[i].(*wirePair) }
func (w *wire) Queues() []network.Queue   { return w.pairs }
func (w *wire) Offloads() network.Offload { return network.Csum | network.TSO4 }
func (w *wire) MTU() int                  { return 1400 }
func (w *wire) Close() error              { return nil }
func (w *wire) SetActive(n int) error     { w.active.Store(int32(n)); return nil }
func (w *wire) SetOffloads(o network.Offload) error {
	w.offloads.Store(uint32(o))
	return nil
}

func (p *wirePair) Send(pieces [][]byte) error {
	select {
	case p.fromGuest <- bytes.Join(pieces, nil):
	default:
	}
	return nil
}

func (p *wirePair) Receive(frame []byte, wait bool) (int, error) {
	if !wait {
		select {
		case f := <-p.toGuest:
			return copy(frame, f), nil
		default:
			return 0, nil
		}
	}
	select {
	case f := <-p.toGuest:
		return copy(frame, f), nil
	case <-p.interrupts:
		return 0, network.ErrInterrupted
	}
}

func (p *wirePair) Interrupt() {
	select {
	case p.interrupts <- struct{}{}:
	default:
	}
}

// netGuest is a driver of a card.
type netGuest struct {
	*virtiotest.Driver
	m *virtiotest.Machine
	w *wire
	t testing.TB
}

func newNetGuest(t testing.TB, pairs int, features uint64) *netGuest {
	t.Helper()
	w := newWire(pairs)
	dev, err := virtio.NewNet(testMAC, w)
	if err != nil {
		t.Fatal(err)
	}
	m := virtiotest.New(t)
	_, d := m.Plug(dev)
	d.Start(features, 2+2*pairs)
	return &netGuest{d, m, w, t}
}

// post makes a receive buffer of n bytes available and returns it.
func (g *netGuest) post(queue, n int) []byte {
	gpa, b := g.m.Alloc(uint64(n))
	if _, ok := g.Rings[queue].Add(virtqtest.Buf{Addr: gpa, Len: uint32(n), Write: true}); !ok {
		g.t.Fatal("the ring is full")
	}
	return b
}

// used waits for n used buffers of a queue and returns their lengths.
func (g *netGuest) used(queue, n int) (lengths []int) {
	for len(lengths) < n {
		if _, length, ok := g.Rings[queue].Used(); ok {
			lengths = append(lengths, int(length))
			continue
		}
		runtime.Gosched()
	}
	return lengths
}

// frame makes one of n bytes with its header.
func frame(n int) []byte {
	f := make([]byte, network.HeaderSize+n)
	for i := range f[network.HeaderSize:] {
		f[network.HeaderSize+i] = byte(i*7 + n)
	}
	return f
}

func TestNetConfig(t *testing.T) {
	g := newNetGuest(t, 2, netBase|netMerge)
	if got := g.Features() & (netCsum | netGuestCsum | netHostTSO4 | netGuestTSO4 | netControl | netMultiple | netMerge); got != netCsum|netGuestCsum|netHostTSO4|netGuestTSO4|netControl|netMultiple|netMerge {
		t.Errorf("features %#x", got)
	}
	if mac := g.Device(0, 4) | g.Device(4, 2)<<32; mac != 0x090000000002 {
		t.Errorf("address %#x", mac)
	}
	if up, pairs, mtu := g.Device(6, 2), g.Device(8, 2), g.Device(10, 2); up != 1 || pairs != 2 || mtu != 1400 {
		t.Errorf("status %d, pairs %d, MTU %d", up, pairs, mtu)
	}
	one := newNetGuest(t, 1, netBase)
	if got := one.Features() & (netControl | netMultiple); got != 0 {
		t.Errorf("one pair: features %#x", got)
	}
	for _, mac := range [][6]byte{{}, {1}} {
		if _, err := virtio.NewNet(mac, newWire(1)); err == nil {
			t.Errorf("address %x accepted", mac)
		}
	}
}

func TestNetSend(t *testing.T) {
	g := newNetGuest(t, 1, netBase|netCsum|netGuestCsum|netGuestTSO4)
	if o := network.Offload(g.w.offloads.Load()); o != network.Csum|network.TSO4 {
		t.Errorf("offloads %#x", o)
	}
	f := frame(3000)
	gpa, b := g.m.Alloc(uint64(len(f)))
	copy(b, f)
	g.Rings[1].Add(virtqtest.Buf{Addr: gpa, Len: 5}, virtqtest.Buf{Addr: gpa + 5, Len: 100}, virtqtest.Buf{Addr: gpa + 105, Len: uint32(len(f) - 105)})
	short, _ := g.m.Alloc(16)
	g.Rings[1].Add(virtqtest.Buf{Addr: short, Len: 16})
	g.Rings[1].Add(virtqtest.Buf{Addr: short, Len: 16, Write: true})
	g.Kick(1)
	g.used(1, 3)
	if got := <-g.w.pair(0).fromGuest; !bytes.Equal(got, f) {
		t.Errorf("a frame of %d bytes was sent as %d", len(f), len(got))
	}
	if n := len(g.w.pair(0).fromGuest); n != 0 {
		t.Errorf("%d more frames", n)
	}
}

// TestNetReceive delivers frames to buffers of every kind.
func TestNetReceive(t *testing.T) {
	t.Run("one buffer", func(t *testing.T) {
		g := newNetGuest(t, 1, netBase|netGuestCsum)
		b := g.post(0, 2000)
		g.Kick(0)
		f := frame(1500)
		g.w.pair(0).toGuest <- frame(2500)         // does not fit: is lost
		g.w.pair(0).toGuest <- bytes.Clone(f[:20]) // is none
		g.w.pair(0).toGuest <- bytes.Clone(f)
		if n := g.used(0, 1); n[0] != len(f) {
			t.Fatalf("%d bytes", n[0])
		}
		f[network.HeaderBuffers] = 1
		if !bytes.Equal(b[:len(f)], f) {
			t.Error("the frame differs")
		}
	})
	t.Run("merged", func(t *testing.T) {
		g := newNetGuest(t, 1, netBase|netMerge)
		f := frame(60000)
		f[0] = 2 // no checksum was negotiated
		g.w.pair(0).toGuest <- bytes.Clone(f)
		g.w.pair(0).toGuest <- frame(100)
		var buffers [][]byte
		for range 20 { // not enough yet
			buffers = append(buffers, g.post(0, 1536))
		}
		g.Kick(0)
		for range 30 {
			buffers = append(buffers, g.post(0, 1536))
			g.Kick(0)
		}
		want := (len(f) + 1535) / 1536
		var got []byte
		for i, n := range g.used(0, want) {
			got = append(got, buffers[i][:n]...)
		}
		if n := binary.LittleEndian.Uint16(got[network.HeaderBuffers:]); int(n) != want {
			t.Errorf("%d buffers, want %d", n, want)
		}
		f[0], f[network.HeaderBuffers] = 0, byte(want)
		if !bytes.Equal(got, f) {
			t.Error("the frame differs")
		}
		if n := g.used(0, 1); n[0] != network.HeaderSize+100 {
			t.Errorf("then %d bytes", n[0])
		}
	})
	t.Run("many", func(t *testing.T) {
		g := newNetGuest(t, 1, netBase|netMerge)
		for i := range 1000 {
			if i%64 == 0 {
				for range 64 {
					g.post(0, 100)
				}
				g.Kick(0)
			}
			g.w.pair(0).toGuest <- frame(14 + i%50)
			if n := g.used(0, 1); n[0] != network.HeaderSize+14+i%50 {
				t.Fatalf("frame %d: %d bytes", i, n[0])
			}
		}
	})
}

// command sends one over the control queue and returns the answer.
func (g *netGuest) command(queue int, bytes ...byte) byte {
	in, b := g.m.Alloc(uint64(len(bytes)))
	copy(b, bytes)
	out, ack := g.m.Alloc(1)
	ack[0] = 0xff
	g.Rings[queue].Add(virtqtest.Buf{Addr: in, Len: uint32(len(bytes))}, virtqtest.Buf{Addr: out, Len: 1, Write: true})
	g.Kick(queue)
	g.used(queue, 1)
	return ack[0]
}

func TestNetPairs(t *testing.T) {
	g := newNetGuest(t, 2, netBase|netControl|netMultiple|netMerge)
	g.post(2, 2000)
	g.Kick(2)
	g.w.pair(1).toGuest <- frame(100)
	for _, refused := range [][]byte{{4, 0, 0, 0}, {4, 0, 3, 0}, {4, 1, 1, 0}, {9, 0, 1, 0}, {4, 0, 1}, {4}} {
		if ack := g.command(4, refused...); ack != 1 {
			t.Errorf("command %v: answer %d", refused, ack)
		}
	}
	if n := len(g.w.pair(1).toGuest); n != 1 {
		t.Error("a pair that is not in use has received a frame")
	}
	if ack := g.command(4, 4, 0, 2, 0); ack != 0 || g.w.active.Load() != 2 {
		t.Errorf("answer %d, %d pairs", ack, g.w.active.Load())
	}
	g.used(2, 1)
	if ack := g.command(4, 4, 0, 1, 0); ack != 0 || g.w.active.Load() != 1 {
		t.Errorf("answer %d, %d pairs", ack, g.w.active.Load())
	}
	// A driver without several pairs has the control queue behind the first one.
	g.Start(netBase|netControl, 6)
	if ack := g.command(2, 4, 0, 2, 0); ack != 1 {
		t.Errorf("without the feature: answer %d", ack)
	}
}

// TestNetReset resets the card while frames come and go, and finds it well.
func TestNetReset(t *testing.T) {
	g := newNetGuest(t, 2, netBase|netMerge)
	for range 50 {
		for i := range 10 {
			g.post(0, 500)
			g.w.pair(0).toGuest <- frame(14 + i)
		}
		g.Kick(0)
		g.Start(netBase|netMerge, 6)
	}
	for len(g.w.pair(0).toGuest) > 0 {
		<-g.w.pair(0).toGuest
	}
	g.Start(netBase|netMerge, 6)
	g.post(0, 500)
	g.Kick(0)
	g.w.pair(0).toGuest <- frame(200)
	if n := g.used(0, 1); n[0] != network.HeaderSize+200 {
		t.Errorf("%d bytes", n[0])
	}
}

func TestNetHostile(t *testing.T) {
	for name, attack := range map[string]func(g *netGuest){
		"no buffer at all":     func(g *netGuest) { g.Rings[0].Add(virtqtest.Buf{Addr: 4096, Len: 0, Write: true}); g.Kick(0) },
		"buffer for no header": func(g *netGuest) { g.post(0, 11); g.Kick(0) },
		"readable buffer":      func(g *netGuest) { g.Rings[0].Add(virtqtest.Buf{Addr: 4096, Len: 2000}); g.Kick(0) },
		"buffers without room": func(g *netGuest) { g.postMany(12); g.w.pair(0).toGuest <- frame(65000); g.Kick(0) },
		"loop": func(g *netGuest) {
			g.Rings[1].SetDesc(0, 4096, 100, virtqtest.Next, 0)
			g.Rings[1].Publish(0)
			g.Kick(1)
		},
		"frame outside RAM":     func(g *netGuest) { g.Rings[1].Add(virtqtest.Buf{Addr: 1 << 40, Len: 1500}); g.Kick(1) },
		"frame of 4 GiB":        func(g *netGuest) { g.Rings[1].Add(virtqtest.Buf{Addr: 4096, Len: 1<<32 - 1}); g.Kick(1) },
		"frame of 1 MiB":        func(g *netGuest) { g.Rings[1].Add(virtqtest.Buf{Addr: 4096, Len: 1 << 20}); g.Kick(1) },
		"available index":       func(g *netGuest) { g.Rings[1].SetAvail(5000); g.Kick(1) },
		"command without room":  func(g *netGuest) { g.Rings[4].Add(virtqtest.Buf{Addr: 4096, Len: 4}); g.Kick(4) },
		"command of no bytes":   func(g *netGuest) { g.command(4) },
		"doorbells of no queue": func(g *netGuest) { g.Kick(5); g.Kick(1000) },
		"pairs while they work": func(g *netGuest) {
			for i := range 100 {
				g.command(4, 4, 0, byte(1+i%2), 0)
			}
		},
		"configuration": func(g *netGuest) { g.m.Write(g.BAR+g.Caps[virtiotest.CapDevice].Off, 8, 1<<63) },
	} {
		t.Run(name, func(t *testing.T) {
			features := uint64(netBase | netControl | netMultiple | netMerge)
			g := newNetGuest(t, 2, features)
			attack(g)
			g.Start(features, 6)
			for len(g.w.pair(0).toGuest) > 0 {
				<-g.w.pair(0).toGuest
			}
			g.post(0, 2000)
			g.Kick(0)
			g.w.pair(0).toGuest <- frame(300)
			if n := g.used(0, 1); n[0] != network.HeaderSize+300 {
				t.Errorf("after a reset: %d bytes", n[0])
			}
			if mac := g.Device(0, 4); mac != 2 {
				t.Errorf("address %#x", mac)
			}
		})
	}
}

// postMany posts small buffers until the ring is full.
func (g *netGuest) postMany(n int) {
	gpa, _ := g.m.Alloc(uint64(n))
	for {
		if _, ok := g.Rings[0].Add(virtqtest.Buf{Addr: gpa, Len: uint32(n), Write: true}); !ok {
			return
		}
	}
}

// FuzzNet lets a driver describe buffers as it likes while frames come.
func FuzzNet(f *testing.F) {
	f.Add([]byte{0, 4, 1, 1, 2, 0, 4, 0, 0}, true)
	f.Add([]byte{0, 255, 1, 0, 255, 1, 0, 1, 1, 1, 3, 0}, false)
	f.Fuzz(func(t *testing.T, script []byte, merge bool) {
		features := uint64(netBase | netControl | netMultiple)
		if merge {
			features |= netMerge
		}
		g := newNetGuest(t, 2, features)
		gpa, memory := g.m.Alloc(1 << 16)
		copy(memory, script)
		for ; len(script) >= 3; script = script[3:] {
			queue, size := int(script[0]%5), uint32(script[1])<<(script[2]>>4)
			g.Rings[queue].Add(virtqtest.Buf{Addr: gpa + uint64(script[2]), Len: size, Write: script[2]&1 != 0})
			g.Kick(queue)
			select {
			case g.w.pair(queue / 2 % 2).toGuest <- frame(14 + int(script[1])*200):
			default:
			}
		}
		g.Start(features, 6)
		for len(g.w.pair(0).toGuest) > 0 {
			<-g.w.pair(0).toGuest
		}
		g.post(0, 2000)
		g.Kick(0)
		g.w.pair(0).toGuest <- frame(300)
		g.used(0, 1)
	})
}

// BenchmarkNet moves frames through the device model, a batch at a time.
func BenchmarkNet(b *testing.B) {
	const batch = 32
	for _, bench := range []struct {
		name string
		size int
	}{{"1500", 1514}, {"64K", 65000}} {
		b.Run("send "+bench.name, func(b *testing.B) {
			counter := &countingPair{}
			g := benchGuest(b, counter)
			gpa, _ := g.m.Alloc(uint64(network.HeaderSize + bench.size))
			b.ReportAllocs()
			b.SetBytes(int64(bench.size))
			for done := 0; done < b.N; {
				n := min(batch, b.N-done)
				for range n {
					g.Rings[1].Add(virtqtest.Buf{Addr: gpa, Len: uint32(network.HeaderSize + bench.size)})
				}
				g.Kick(1)
				for left := n; left > 0; {
					if _, _, ok := g.Rings[1].Used(); ok {
						left--
					} else {
						runtime.Gosched()
					}
				}
				done += n
			}
		})
		b.Run("receive "+bench.name, func(b *testing.B) {
			counter := &countingPair{size: network.HeaderSize + bench.size}
			g := benchGuest(b, counter)
			gpa, _ := g.m.Alloc(4096)
			used := 0
			b.ReportAllocs()
			b.SetBytes(int64(bench.size))
			for want := b.N * ((network.HeaderSize + bench.size + 4095) / 4096); used < want; {
				if _, _, ok := g.Rings[0].Used(); ok {
					used++
					continue
				}
				posted := 0
				for ok := true; ok; posted++ {
					_, ok = g.Rings[0].Add(virtqtest.Buf{Addr: gpa, Len: 4096, Write: true})
				}
				if posted > 1 {
					g.Kick(0)
				}
				runtime.Gosched()
			}
		})
	}
}

// countingPair is a network that always has a frame of that size.
type countingPair struct{ size int }

func (c *countingPair) Send([][]byte) error { return nil }
func (c *countingPair) Interrupt()          {}
func (c *countingPair) Receive(frame []byte, _ bool) (int, error) {
	if c.size == 0 {
		runtime.Gosched()
		return 0, network.ErrInterrupted
	}
	return c.size, nil
}

func benchGuest(b testing.TB, q network.Queue) *netGuest {
	w := &wire{pairs: []network.Queue{q}}
	dev, err := virtio.NewNet(testMAC, w)
	if err != nil {
		b.Fatal(err)
	}
	m := virtiotest.New(b)
	_, d := m.Plug(dev)
	d.Start(netBase|netMerge, 3)
	return &netGuest{d, m, w, b}
}
