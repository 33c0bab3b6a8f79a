package virtio_test

import (
	"io"
	"runtime"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/devices/backend/network"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestAllocations holds that a request costs no allocation, from the doorbell to the interrupt, once the device is warm.
func TestAllocations(t *testing.T) {
	testenv.Allocations(t)
	for _, test := range []struct {
		name    string
		prepare func(*testing.T) (request func())
	}{
		{"disk, read", func(t *testing.T) func() { return diskRequest(t, blkIn, disk.Options{}) }},
		{"disk, write", func(t *testing.T) func() { return diskRequest(t, blkOut, disk.Options{}) }},
		{"disk, flush", func(t *testing.T) func() { return diskRequest(t, blkFlush, disk.Options{}) }},
		{"disk, read of a copy-on-write one", func(t *testing.T) func() { return diskRequest(t, blkIn, disk.Options{COW: true}) }},
		{"disk, write of a copy-on-write one", func(t *testing.T) func() { return diskRequest(t, blkOut, disk.Options{COW: true}) }},
		{"network, send", func(t *testing.T) func() {
			return netRequest(t, &countingPair{}, 1, virtqtest.Buf{Len: network.HeaderSize + 1514})
		}},
		{"network, receive", func(t *testing.T) func() {
			return netRequest(t, &countingPair{size: network.HeaderSize + 1514}, 0, virtqtest.Buf{Len: 4096, Write: true})
		}},
		{"console, output", consoleRequest},
		{"console, port to the guest", portWrite},
		{"console, port from the guest", portRead},
		{"random numbers", func(t *testing.T) func() {
			m := virtiotest.New(t)
			_, d := m.Plug(virtio.NewRNG())
			d.Start(allRing, 2)
			gpa, _ := m.Alloc(64)
			return roundTrips(d, 0, virtqtest.Buf{Addr: gpa, Len: 64, Write: true})
		}},
		{"9P, attributes", p9Request},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := test.prepare(t)
			for range 200 {
				request()
			}
			if n := allocations(1000, request); n > 0.1 {
				t.Errorf("%v allocations per request", n)
			}
		})
	}
}

// allocations returns how many a call of fn makes, as testing.AllocsPerRun, which would leave the device without a processor of
// its own and count down to whole ones. The runtime makes a few meanwhile.
func allocations(runs int, fn func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		fn()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(runs)
}

// roundTrips returns a function that makes a request of the buffers, and waits until it is done. Each is interrupted for.
func roundTrips(d *virtiotest.Driver, queue int, bufs ...virtqtest.Buf) func() {
	return func() {
		r := d.Rings[queue]
		r.SetUsedEvent(r.LastUsed())
		r.Add(bufs...)
		d.Kick(queue)
		awaitUsed(r)
	}
}

func awaitUsed(r *virtqtest.Ring) {
	for _, _, ok := r.Used(); !ok; _, _, ok = r.Used() {
		runtime.Gosched()
	}
}

func diskRequest(t *testing.T, typ uint32, o disk.Options) func() {
	o.Path, o.Format = imageFile(t), disk.Raw
	img, err := disk.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	g := newBlkGuest(t, img, blkF, 1, nil)
	bufs := []virtqtest.Buf{g.setHeader(typ, 8)}
	if typ != blkFlush {
		bufs = append(bufs, virtqtest.Buf{Addr: g.dataAddr, Len: 4096, Write: typ == blkIn})
	}
	request := roundTrips(g.Driver, 0, append(bufs, g.statusBuf())...)
	return func() {
		request()
		if g.status[0] != blkOK {
			t.Fatalf("status %d", g.status[0])
		}
	}
}

func netRequest(t *testing.T, pair network.Queue, queue int, b virtqtest.Buf) func() {
	g := benchGuest(t, pair)
	b.Addr, _ = g.m.Alloc(4096)
	return roundTrips(g.Driver, queue, b)
}

func consoleRequest(t *testing.T) func() {
	m := virtiotest.New(t)
	_, d := m.Plug(virtio.NewConsole(virtio.ConsoleOptions{}))
	d.Start(allRing|multiport, consoleIRQs)
	gpa, _ := m.Alloc(80)
	return roundTrips(d, 1, virtqtest.Buf{Addr: gpa, Len: 80})
}

// openPort returns an open port whose guest has given no buffers, and a page of the guest.
func openPort(t *testing.T) (*virtio.Port, *guest, uint64) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	g.openAgent()
	p := c.Port(agent)
	if _, err := p.Write(make([]byte, 8*pageSize)); err != nil { // the buffers from boot
		t.Fatal(err)
	}
	for range 8 {
		awaitUsed(g.Rings[agentIn])
	}
	gpa, _ := g.m.Alloc(pageSize)
	return p, g, gpa
}

func portWrite(t *testing.T) func() {
	p, g, gpa := openPort(t)
	data := make([]byte, 1000)
	return func() {
		r := g.Rings[agentIn]
		r.SetUsedEvent(r.LastUsed())
		r.Add(virtqtest.Buf{Addr: gpa, Len: pageSize, Write: true})
		g.Kick(agentIn)
		if _, err := p.Write(data); err != nil {
			t.Fatal(err)
		}
		awaitUsed(r)
	}
}

func portRead(t *testing.T) func() {
	p, g, gpa := openPort(t)
	data := make([]byte, 1000)
	return func() {
		r := g.Rings[agentOut]
		r.SetUsedEvent(r.LastUsed())
		r.Add(virtqtest.Buf{Addr: gpa, Len: uint32(len(data))})
		g.Kick(agentOut)
		if _, err := io.ReadFull(p, data); err != nil {
			t.Fatal(err)
		}
		awaitUsed(r)
	}
}

func p9Request(t *testing.T) func() {
	m, d := p9Device(t, t.TempDir())
	client, _ := p9Mount(t, m, d)
	t.Cleanup(func() { client.Close() })
	gpa, b := m.Alloc(4096)
	copy(b, p9Getattr)
	return roundTrips(d, 0, virtqtest.Buf{Addr: gpa, Len: uint32(len(p9Getattr)), Write: false}, virtqtest.Buf{Addr: gpa + 2048, Len: 200, Write: true})
}
