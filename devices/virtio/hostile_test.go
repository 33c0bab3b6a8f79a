package virtio_test

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

func TestBrokenQueue(t *testing.T) {
	for name, breakIt := range map[string]func(*virtqtest.Ring){
		"index":      func(r *virtqtest.Ring) { r.SetAvail(1000) },
		"loop":       func(r *virtqtest.Ring) { r.SetDesc(0, 0, 1, virtqtest.Next, 0); r.Publish(0) },
		"address":    func(r *virtqtest.Ring) { r.SetDesc(0, 1<<40, 1, 0, 0); r.Publish(0) },
		"descriptor": func(r *virtqtest.Ring) { r.Publish(999) },
	} {
		t.Run(name, func(t *testing.T) {
			m := virtiotest.New(t)
			told := make(chan string, 10)
			m.Notice = func(text string) { told <- text }
			tr, d := m.Plug(&echo{})
			d.Start(allRing, 3)
			breakIt(d.Rings[0])
			d.Kick(0)
			m.IRQ.Wait(d.Message(0), 1)
			if text := <-told; !strings.HasPrefix(text, "virtio test has stopped, until the guest's driver resets it: queue 0: ") {
				t.Errorf("the user was told %q", text)
			}
			if got := d.Common(virtiotest.Status, 1); got&virtiotest.NeedsReset == 0 {
				t.Errorf("status %#x", got)
			}
			if err := tr.Err(); !errors.Is(err, virtq.ErrGuest) {
				t.Errorf("error %v", err)
			}
			d.Kick(0)
			if got := exchange(t, m, d, 1, "other queue"); got != "other queue" {
				t.Errorf("got %q", got)
			}
			d.Start(allRing, 3)
			if got := exchange(t, m, d, 0, "well again"); got != "well again" {
				t.Errorf("after a reset: %q", got)
			}
		})
	}
}

func TestActivationFails(t *testing.T) {
	m := virtiotest.New(t)
	dev := &echo{refuse: errors.New("no backend")}
	tr, d := m.Plug(dev)
	d.Start(modern, 3)
	if got := d.Common(virtiotest.Status, 1); got&virtiotest.NeedsReset == 0 || !errors.Is(tr.Err(), dev.refuse) {
		t.Errorf("status %#x, error %v", got, tr.Err())
	}
	dev.refuse = nil
	d.Reset()
	d.Accept(modern)
	d.SetupQueue(0, modern, 1)
	d.SetCommon(virtiotest.QueueSelect, 2, 1) // a queue at an address without RAM
	d.SetCommon(virtiotest.QueueDesc, 8, 1<<40)
	d.SetCommon(virtiotest.QueueEnable, 2, 1)
	d.SetCommon(virtiotest.Status, 1, 0xf)
	if got := d.Common(virtiotest.Status, 1); got&virtiotest.NeedsReset == 0 || !errors.Is(tr.Err(), virtq.ErrGuest) {
		t.Errorf("status %#x, error %v", got, tr.Err())
	}
}

func TestDoorbellsOutOfTurn(t *testing.T) {
	m := virtiotest.New(t)
	m.Mapper.NoDoorbells = true
	_, d := m.Plug(&echo{})
	for i := range 1100 { // before anything is set up, and beyond the queues
		d.Kick(i % 1024)
	}
	d.Accept(modern)
	d.SetupQueue(0, modern, 0)
	d.SetCommon(virtiotest.Status, 1, 0xf) // queue 1 stays disabled
	d.Kick(0)
	d.Kick(1)
	d.Start(modern, 3)
	if got := exchange(t, m, d, 1, "fine"); got != "fine" {
		t.Errorf("got %q", got)
	}
}

// A reset while the device is busy is not done before the device is, and no vCPU waits
// for it longer than the grace.
func TestResetInFlight(t *testing.T) {
	m := virtiotest.New(t)
	dev := &echo{block: make(chan struct{})}
	_, d := m.Plug(dev)
	d.Start(modern, 3)
	for dev.serving.Load() == 0 {
		runtime.Gosched()
	}
	d.SetCommon(virtiotest.Status, 1, 0)
	if got := d.Common(virtiotest.Status, 1); got == 0 {
		t.Error("status reads 0 while the device works")
	}
	d.SetCommon(virtiotest.Status, 1, 0) // again
	d.SetCommon(virtiotest.Status, 1, 0xf)
	close(dev.block)
	for d.Common(virtiotest.Status, 1) != 0 {
	}
	if dev.active.Load() || dev.serving.Load() != 0 {
		t.Error("device is active after its reset")
	}
}

// Several vCPUs do as they like.
func TestConcurrentGuests(t *testing.T) {
	m := virtiotest.New(t)
	dev := &echo{}
	_, d := m.Plug(dev)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := range 60 {
				switch (n + i) % 3 {
				case 0:
					d.SetCommon(virtiotest.Status, 1, 0)
				case 1:
					d.Accept(modern)
					d.SetCommon(virtiotest.QueueSelect, 2, uint64(n%2))
					d.SetCommon(virtiotest.QueueDriver, 8, 0x2000)
					d.SetCommon(virtiotest.QueueDevice, 8, 0x3000)
					d.SetCommon(virtiotest.QueueEnable, 2, 1)
					d.SetCommon(virtiotest.Status, 1, 0xf)
				case 2:
					d.Kick(n % 2)
				}
			}
		})
	}
	wg.Wait()
	d.Start(modern, 3)
	if got := exchange(t, m, d, 0, "alive"); got != "alive" {
		t.Errorf("got %q", got)
	}
}

func TestNewRefuses(t *testing.T) {
	m := virtiotest.New(t)
	for _, sizes := range [][]uint16{{0}, {3}, {65535}, make([]uint16, 1025)} {
		if _, err := virtio.New(&odd{sizes}, virtio.Options{Name: "odd", Memory: m.Mem, IRQ: m.IRQ}); err == nil {
			t.Errorf("%d queues of %d: accepted", len(sizes), sizes[0])
		}
	}
}

type odd struct{ sizes []uint16 }

func (o *odd) Info() virtio.Info               { return virtio.Info{Type: 1, QueueSizes: o.sizes} }
func (*odd) ReadConfig(int, []byte)            {}
func (*odd) WriteConfig(int, []byte)           {}
func (*odd) Activate(*virtio.Activation) error { return nil }
func (*odd) Serve(*virtio.Queue) error         { return nil }
func (*odd) Reset()                            {}

// FuzzTransport plays any sequence of register accesses, with guest memory as it comes.
func FuzzTransport(f *testing.F) {
	f.Add([]byte{0x14, 1, 1, 0x14, 1, 3, 0x08, 4, 1, 0x0c, 4, 1, 0x14, 1, 11, 0x1c, 2, 1, 0x14, 1, 15, 0x80, 2, 0, 0x14, 1, 0})
	f.Add([]byte{0x16, 2, 1, 0x18, 2, 8, 0x20, 8, 0x10, 0x28, 8, 0x20, 0x30, 8, 0x30, 0x1c, 2, 1, 0x14, 1, 15, 0x82, 4, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := virtiotest.New(t)
		_, d := m.Plug(&echo{})
		if len(script) > 0 && script[0]&1 != 0 {
			d.Accept(modern)
		}
		mem, err := m.Mem.Slice(0, 4096)
		if err != nil {
			t.Fatal(err)
		}
		copy(mem[script2(script):], script)
		for ; len(script) >= 3; script = script[3:] {
			off, n, v := uint64(script[0]), 1+int(script[1]%8), uint64(script[2])
			if script[1]&0x40 != 0 {
				v *= 0x100
			}
			switch {
			case off >= 0xf0:
				d.SetConfig(d.PCICfg+int(off&0xf)+4, n, v)
			case off >= 0x80:
				m.Write(d.BAR+(off&7)<<12+off>>3&0xf, n, v)
				m.Read(d.BAR+(off&7)<<12+off>>3&0xf, n)
			default:
				d.SetCommon(off, n, v)
				d.Common(off, n)
			}
		}
		d.SetConfig(pci.RegCommand, 2, pci.CommandMemory)
		d.Start(modern, 3)
		if got := exchange(t, m, d, 0, "alive"); got != "alive" {
			t.Fatalf("got %q", got)
		}
	})
}

// script2 picks where in the first page a script lands.
func script2(script []byte) int {
	if len(script) == 0 {
		return 0
	}
	return int(script[len(script)-1])
}
