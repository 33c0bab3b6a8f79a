package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

const (
	multiport   = 1 << 1
	agent       = "stile.agent"
	portReady   = 3
	portOpen    = 6
	controlIn   = 2
	controlOut  = 3
	agentIn     = 4
	agentOut    = 5
	pageSize    = 4096
	consoleIRQs = 2
)

// guest is the guest's side of a console: its driver and the program on the agent's port.
type guest struct {
	*virtiotest.Driver
	m    *virtiotest.Machine
	t    testing.TB
	bufs map[int]map[uint16][]byte // by queue and head: what the device writes
}

// output is a writer that tests can wait on.
type output struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     bytes.Buffer
}

func newOutput() *output {
	o := &output{}
	o.changed.L = &o.mu
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changed.Broadcast()
	return o.buf.Write(p)
}

func (o *output) wait(want string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.buf.String() != want {
		o.changed.Wait()
	}
}

func newConsole(t testing.TB, features uint64) (*virtio.Console, *virtio.Transport, *guest, *output) {
	t.Helper()
	out := newOutput()
	c := virtio.NewConsole(virtio.ConsoleOptions{Output: out, Ports: []string{agent}, Cols: 80, Rows: 25})
	m := virtiotest.New(t)
	tr, d := m.Plug(c)
	g := &guest{Driver: d, m: m, t: t}
	g.boot(features)
	return c, tr, g, out
}

// boot starts the driver and fills the queues towards the guest, as Linux does.
func (g *guest) boot(features uint64) {
	g.t.Helper()
	g.Start(features, consoleIRQs)
	g.bufs = map[int]map[uint16][]byte{}
	for _, i := range []int{0, controlIn, agentIn} {
		g.bufs[i] = map[uint16][]byte{}
		for range 8 {
			g.give(i, pageSize)
		}
		g.Kick(i)
	}
	if features&multiport != 0 {
		g.control(0, 0, 1) // DEVICE_READY
	}
}

// give makes a buffer of n bytes available in queue i, towards the guest.
func (g *guest) give(i int, n uint64) {
	g.t.Helper()
	gpa, b := g.m.Alloc(n)
	head, ok := g.Rings[i].Add(virtqtest.Buf{Addr: gpa, Len: uint32(n), Write: true})
	if !ok {
		g.t.Fatal("ring full")
	}
	g.bufs[i][head] = b
}

// take waits for the next buffer of queue i and returns its bytes.
func (g *guest) take(i int) []byte {
	g.t.Helper()
	for {
		if head, n, ok := g.Rings[i].Used(); ok {
			return g.bufs[i][head][:n]
		}
		runtime.Gosched()
	}
}

// send writes data to queue i and waits until the device has taken it.
func (g *guest) send(i int, data []byte) {
	g.t.Helper()
	g.post(i, data)
	for {
		if _, _, ok := g.Rings[i].Used(); ok {
			return
		}
		runtime.Gosched()
	}
}

func (g *guest) post(i int, data []byte) {
	g.t.Helper()
	gpa, b := g.m.Alloc(uint64(len(data)))
	copy(b, data)
	if _, ok := g.Rings[i].Add(virtqtest.Buf{Addr: gpa, Len: uint32(len(data))}); !ok {
		g.t.Fatal("ring full")
	}
	g.Kick(i)
}

func (g *guest) control(port uint32, event, value uint16) {
	g.t.Helper()
	var m [8]byte
	binary.LittleEndian.PutUint32(m[:], port)
	binary.LittleEndian.PutUint16(m[4:], event)
	binary.LittleEndian.PutUint16(m[6:], value)
	g.send(controlOut, m[:])
}

// expect takes the next control message.
func (g *guest) expect(port uint32, event, value uint16, payload string) {
	g.t.Helper()
	m := g.take(controlIn)
	if len(m) < 8 {
		g.t.Fatalf("control message of %d bytes", len(m))
	}
	got := fmt.Sprint(binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint16(m[4:]), binary.LittleEndian.Uint16(m[6:]), m[8:])
	if want := fmt.Sprint(port, event, value, []byte(payload)); got != want {
		g.t.Errorf("control message %v, want %v", got, want)
	}
}

// openAgent does what Linux and the agent do until the agent's port is open.
func (g *guest) openAgent() {
	g.t.Helper()
	g.expect(0, 1, 1, "")
	g.expect(1, 1, 1, "")
	g.control(1, portReady, 1)
	g.expect(1, 7, 1, agent)
	g.expect(1, portOpen, 1, "")
	g.control(1, portOpen, 1)
}

func TestConsoleHandshake(t *testing.T) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	if got := g.Device(0, 8); got != 2<<32|25<<16|80 {
		t.Errorf("configuration %#x", got)
	}
	g.expect(0, 1, 1, "")
	g.expect(1, 1, 1, "")
	g.control(0, portReady, 1)
	g.expect(0, 4, 1, "")
	g.expect(0, 5, 1, "\x50\x00\x19\x00")
	if err := c.Resize(100, 40); err != nil {
		t.Fatal(err)
	}
	g.expect(0, 5, 1, "\x64\x00\x28\x00")
	if c.Port("nobody") != nil || c.Port("") != nil || c.Port(agent).Name() != agent {
		t.Error("ports are found by other names than their own")
	}
}

func TestConsoleText(t *testing.T) {
	for _, features := range []uint64{modern, allRing | multiport} {
		c, _, g, out := newConsole(t, features)
		g.send(1, []byte("Linux version"))
		g.send(1, nil)
		g.send(1, bytes.Repeat([]byte("."), 200<<10))
		out.wait("Linux version" + string(bytes.Repeat([]byte("."), 200<<10)))
		if _, err := c.Input().Write([]byte("ls\n")); err != nil {
			t.Fatal(err)
		}
		if got := g.take(0); string(got) != "ls\n" {
			t.Errorf("guest got %q", got)
		}
	}
}

func TestResizeWithoutMultiport(t *testing.T) {
	c, _, g, _ := newConsole(t, modern)
	if err := c.Resize(1, 2); err != nil {
		t.Fatal(err)
	}
	if g.m.IRQ.Count(g.Message(0)) != 1 || g.Device(0, 4) != 2<<16|1 {
		t.Error("no configuration change")
	}
	// A driver that reads the size meanwhile, and who changes it, do not wait for each other for good.
	var resized atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for !resized.Load() {
			g.Device(0, 4)
		}
	})
	for i := range uint16(20_000) {
		if err := c.Resize(i, i); err != nil {
			t.Fatal(err)
		}
	}
	resized.Store(true)
	reader.Wait()
}

func TestRNG(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(virtio.NewRNG())
	d.Start(allRing, 2)
	for i, n := range []uint64{64, 1 << 20} {
		gpa, b := m.Alloc(n)
		d.Rings[0].SetUsedEvent(uint16(i))
		d.Rings[0].Add(virtqtest.Buf{Addr: gpa, Len: uint32(n), Write: true})
		d.Kick(0)
		m.IRQ.Wait(d.Message(1), i+1)
		_, got, ok := d.Rings[0].Used()
		if want := min(n, 16<<10); !ok || uint64(got) != want {
			t.Errorf("asked for %d: got %d, want %d", n, got, want)
		}
		if bytes.Count(b[:got], []byte{0}) > int(got)/8 || bytes.Count(b[got:], []byte{0}) != len(b)-int(got) {
			t.Errorf("asked for %d: not random, or beyond what was said", n)
		}
	}
}

// FuzzConsoleControl sends any messages, with a reset somewhere.
func FuzzConsoleControl(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 3, 0, 1, 0, 1, 0, 0, 0, 3, 0, 1, 0, 1, 0, 0, 0, 6, 0, 1, 0}, uint8(1))
	f.Add([]byte{255, 255, 255, 255, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 6, 0, 0, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, chunk uint8) {
		c, tr, g, _ := newConsole(t, allRing|multiport)
		n := 1 + int(chunk%16)
		for i := 0; i < 40 && len(script) > 0; i++ {
			k := min(n, len(script))
			g.send(controlOut, script[:k])
			script = script[k:]
		}
		if err := errors.Join(c.Resize(3, 4), tr.Err()); err != nil {
			t.Fatal(err)
		}
		g.Reset()
		if err := c.Port(agent).Reopen(); err != nil {
			t.Fatal(err)
		}
		g.boot(allRing | multiport)
		g.openAgent()
		if _, err := c.Port(agent).Write([]byte("alive")); err != nil {
			t.Fatal(err)
		}
	})
}

// A chain of the console, from the doorbell to the writer and back.
func BenchmarkConsoleOutput(b *testing.B) {
	c := virtio.NewConsole(virtio.ConsoleOptions{})
	m := virtiotest.New(b)
	_, d := m.Plug(c)
	d.Start(allRing|multiport, consoleIRQs)
	gpa, _ := m.Alloc(80)
	r, done := d.Rings[1], 0
	b.ReportAllocs()
	for b.Loop() {
		r.SetUsedEvent(r.LastUsed())
		r.Add(virtqtest.Buf{Addr: gpa, Len: 80})
		d.Kick(1)
		done++
		m.IRQ.Wait(d.Message(1), done)
		r.Used()
	}
}
