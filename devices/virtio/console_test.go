package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
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
}

func TestPort(t *testing.T) {
	c, tr, g, _ := newConsole(t, allRing|multiport)
	p := c.Port(agent)
	opened := make(chan bool, 4)
	p.OnOpen(func(open bool) { opened <- open })
	wrote := make(chan error, 1)
	go func() { // before the guest opens the port
		_, err := p.Write([]byte("hello"))
		wrote <- err
	}()
	g.openAgent()
	if !<-opened {
		t.Error("told of a close")
	}
	if got := g.take(agentIn); string(got) != "hello" {
		t.Errorf("guest got %q", got)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}

	g.post(agentOut, []byte("first "))
	g.post(agentOut, []byte("second"))
	got := make([]byte, 12)
	if _, err := io.ReadFull(p, got[:3]); err != nil { // part of a buffer
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p, got[3:]); err != nil || string(got) != "first second" {
		t.Errorf("host got %q, %v", got, err)
	}
	g.Rings[agentOut].Used()
	g.Rings[agentOut].Used()

	// What the guest wrote before it closed is still there.
	g.post(agentOut, []byte("last words"))
	g.control(1, portOpen, 0)
	if <-opened {
		t.Error("told of an open")
	}
	rest, err := io.ReadAll(p)
	if string(rest) != "last words" || err != nil {
		t.Errorf("host got %q, %v", rest, err)
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, virtio.ErrPortClosed) {
		t.Errorf("Write to a closed port: %v", err)
	}
	g.control(1, portOpen, 1)
	if _, err := p.Read(got); err != io.EOF {
		t.Errorf("the old stream goes on: %v", err)
	}
	if err := p.Reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("new")); err != nil {
		t.Error(err)
	}
	if err := tr.Err(); err != nil {
		t.Error(err)
	}
}

func TestPortClose(t *testing.T) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	p := c.Port(agent)
	g.openAgent()
	read := make(chan error)
	go func() {
		_, err := p.Read(make([]byte, 1))
		read <- err
	}()
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read ended with %v", err)
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write ended with %v", err)
	}
	g.expect(1, portOpen, 0, "")
	if err := p.Reopen(); err != nil {
		t.Fatal(err)
	}
	g.expect(1, portOpen, 1, "")
	if _, err := p.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if got := g.take(agentIn); string(got) != "again" {
		t.Errorf("guest got %q", got)
	}
}

// A guest that does not read stops the host's writer; when it gives buffers, it goes on.
func TestPortFlowControl(t *testing.T) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	g.openAgent()
	data := bytes.Repeat([]byte("0123456789abcdef"), 16*pageSize/16)
	done := make(chan error, 1)
	go func() {
		_, err := c.Port(agent).Write(data)
		done <- err
	}()
	var got []byte
	for len(got) < len(data) {
		got = append(got, g.take(agentIn)...)
		if len(got) == 8*pageSize {
			select {
			case err := <-done:
				t.Fatalf("the write ended without room: %v", err)
			default:
			}
		}
		g.give(agentIn, pageSize)
		g.Kick(agentIn)
	}
	if err := <-done; err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived changed, %v", len(got), err)
	}
}

func TestPortReset(t *testing.T) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	p := c.Port(agent)
	early := make(chan error, 1)
	go func() { // waits through resets before the port is open
		_, err := io.ReadFull(p, make([]byte, 5))
		early <- err
	}()
	g.boot(allRing | multiport)
	g.openAgent()
	g.post(agentOut, []byte("early"))
	if err := <-early; err != nil {
		t.Errorf("Read before the port was open: %v", err)
	}
	ends := make(chan error, 2)
	go func() {
		_, err := p.Read(make([]byte, 1))
		ends <- err
	}()
	go func() {
		_, err := p.Write(make([]byte, 1<<20)) // more than the guest has room for
		ends <- err
	}()
	g.take(agentIn)
	g.Reset()
	for range 2 {
		if err := <-ends; !errors.Is(err, virtio.ErrPortReset) {
			t.Errorf("a call ended with %v", err)
		}
	}
	if err := p.Reopen(); err != nil {
		t.Fatal(err)
	}
	g.boot(allRing | multiport)
	g.openAgent()
	if _, err := p.Write([]byte("next")); err != nil {
		t.Fatal(err)
	}
	if got := g.take(agentIn); string(got) != "next" {
		t.Errorf("guest got %q", got)
	}
}

func TestConsoleHostile(t *testing.T) {
	for name, do := range map[string]func(*guest, *virtio.Console) error{
		"input buffer of the wrong direction": func(g *guest, c *virtio.Console) error {
			g.openAgent()
			for range 8 {
				if _, err := c.Port(agent).Write([]byte("x")); err != nil {
					return err
				}
			}
			g.Rings[agentIn].SetDesc(60, 0, 16, 0, 0)
			g.Rings[agentIn].Publish(60)
			_, err := c.Port(agent).Write([]byte("x"))
			return err
		},
		"output ring broken": func(g *guest, c *virtio.Console) error {
			g.openAgent()
			g.Rings[agentOut].SetAvail(500)
			_, err := c.Port(agent).Read(make([]byte, 1))
			return err
		},
		"control buffer too small": func(g *guest, c *virtio.Console) error {
			g.openAgent()
			for range 4 { // use up the good ones
				if err := errors.Join(c.Port(agent).Close(), c.Port(agent).Reopen()); err != nil {
					return err
				}
			}
			g.give(controlIn, 4)
			return errors.Join(c.Port(agent).Close(), c.Port(agent).Reopen(), c.Port(agent).Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, tr, g, _ := newConsole(t, allRing|multiport)
			err := do(g, c)
			if !errors.Is(err, virtq.ErrGuest) || !errors.Is(tr.Err(), virtq.ErrGuest) {
				t.Errorf("error %v, device says %v", err, tr.Err())
			}
			if got := g.Common(virtiotest.Status, 1); got&virtiotest.NeedsReset == 0 {
				t.Errorf("status %#x", got)
			}
		})
	}
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

// The host writes to the guest's buffers and takes what the guest writes, 16 pages a time.
func BenchmarkPort(b *testing.B) {
	c, _, g, _ := newConsole(b, allRing|multiport)
	g.openAgent()
	p := c.Port(agent)
	gpa, _ := g.m.Alloc(64 << 10)
	page := func(i int) uint64 { return gpa + uint64(i)*pageSize }
	buf := make([]byte, 64<<10)
	drain := func(q int) {
		for {
			if _, _, ok := g.Rings[q].Used(); !ok {
				return
			}
		}
	}
	if _, err := p.Write(make([]byte, 8*pageSize)); err != nil { // the buffers from boot
		b.Fatal(err)
	}
	drain(agentIn)
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			for i := range 16 {
				g.Rings[agentIn].Add(virtqtest.Buf{Addr: page(i), Len: pageSize, Write: true})
			}
			if _, err := p.Write(buf); err != nil {
				b.Fatal(err)
			}
			drain(agentIn)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			g.Rings[agentOut].Add(virtqtest.Buf{Addr: gpa, Len: 64 << 10})
			if _, err := io.ReadFull(p, buf); err != nil {
				b.Fatal(err)
			}
			drain(agentOut)
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
