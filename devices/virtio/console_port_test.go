package virtio_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

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
	if _, err := p.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
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

func TestConsoleClose(t *testing.T) {
	c, _, _, _ := newConsole(t, allRing|multiport)
	ends := make(chan error, 2)
	go func() {
		_, err := c.Input().Write(make([]byte, 1<<20)) // more than the guest has room for
		ends <- err
	}()
	go func() {
		_, err := c.Port(agent).Write([]byte("x")) // not open in the guest
		ends <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ends; !errors.Is(err, os.ErrClosed) {
			t.Errorf("a call ended with %v", err)
		}
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

// TestEmptyChains: however many buffers without a byte a guest sends, others get the port's lock in between, and a Read waits for bytes.
func TestEmptyChains(t *testing.T) {
	c, _, g, _ := newConsole(t, allRing|multiport)
	p := c.Port(agent)
	g.openAgent()
	const chains = 60
	for range chains {
		gpa, _ := g.m.Alloc(1)
		if _, ok := g.Rings[agentOut].Add(virtqtest.Buf{Addr: gpa, Len: 1, Write: true}); !ok {
			t.Fatal("ring full")
		}
	}
	calls := 0
	for more := true; more; calls++ {
		var err error
		if _, more, err = p.Look(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	used := 0
	for {
		if _, _, ok := g.Rings[agentOut].Used(); !ok {
			break
		}
		used++
	}
	if calls < 2 || used != chains {
		t.Errorf("%d chains taken in %d calls", used, calls)
	}
	for range 40 {
		gpa, _ := g.m.Alloc(1)
		g.Rings[agentOut].Add(virtqtest.Buf{Addr: gpa, Len: 1, Write: true})
	}
	g.post(agentOut, []byte("text"))
	got := make([]byte, 4)
	if _, err := io.ReadFull(p, got); err != nil || string(got) != "text" {
		t.Errorf("host got %q, %v", got, err)
	}
}
