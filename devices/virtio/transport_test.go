package virtio_test

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

const (
	modern   = virtio.FeatureVersion1
	allRing  = modern | virtio.FeatureEventIdx | virtio.FeatureIndirect
	devFlag  = 1 << 5 // echo's own feature
	echoSize = 64
)

// echo copies what is readable to what is writable, in two queues. Its configuration is
// four bytes.
type echo struct {
	config  [4]byte
	chains  [2]virtq.Chain
	serving atomic.Int32
	active  atomic.Bool
	block   chan struct{} // if not nil, Serve waits for it and for nothing else
	refuse  error
}

func (e *echo) Info() virtio.Info {
	return virtio.Info{Type: virtio.TypeNet, Class: 0x020000, Features: devFlag, QueueSizes: []uint16{echoSize, 8}, ConfigSize: 4}
}
func (e *echo) ReadConfig(off int, p []byte)  { copy(p, e.config[off:]) }
func (e *echo) WriteConfig(off int, p []byte) { copy(e.config[off:], p) }

func (e *echo) Activate(*virtio.Activation) error {
	if e.refuse == nil {
		e.active.Store(true)
	}
	return e.refuse
}

func (e *echo) Serve(q *virtio.Queue) error {
	e.serving.Add(1)
	defer e.serving.Add(-1)
	if !e.active.Load() {
		return errors.New("served while not active")
	}
	if e.block != nil {
		<-e.block
	}
	return q.Drain(&e.chains[q.Index()], func(c *virtq.Chain) (uint32, error) {
		var b [256]byte
		n, _ := c.Read(b[:])
		_, _ = c.Write(b[:n])
		return c.Written(), nil
	})
}

func (e *echo) Reset() {
	if e.serving.Load() != 0 {
		panic("reset while serving")
	}
	e.active.Store(false)
}

// exchange sends text through queue i and returns what comes back.
func exchange(t testing.TB, m *virtiotest.Machine, d *virtiotest.Driver, i int, text string) string {
	t.Helper()
	r := d.Rings[i]
	in, src := m.Alloc(uint64(len(text)))
	out, dst := m.Alloc(uint64(len(text)))
	copy(src, text)
	before := m.IRQ.Count(d.Message(i + 1))
	r.SetUsedEvent(r.LastUsed())
	r.Add(virtqtest.Buf{Addr: in, Len: uint32(len(text))}, virtqtest.Buf{Addr: out, Len: uint32(len(text)), Write: true})
	d.Kick(i)
	m.IRQ.Wait(d.Message(i+1), before+1)
	_, n, ok := r.Used()
	if !ok {
		t.Fatal("interrupt without a used buffer")
	}
	return string(dst[:n])
}

func TestProbe(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(&echo{})
	if got := d.Config(0, 4); got != 0x10411af4 {
		t.Errorf("ID %#x", got)
	}
	if got := d.Config(pci.RegRevision, 1); got < 1 {
		t.Errorf("revision %d marks a transitional device", got)
	}
	for kind, least := range map[byte]uint64{virtiotest.CapCommon: 56, virtiotest.CapNotify: 8, virtiotest.CapISR: 1, virtiotest.CapDevice: 4} {
		if c := d.Caps[kind]; c.BAR != 0 || c.Len < least {
			t.Errorf("capability %d: %+v", kind, c)
		}
	}
	if d.Caps[virtiotest.CapNotify].Extra != 4 || d.MSIX == 0 || d.PCICfg == 0 {
		t.Error("notify multiplier, MSI-X or config access is missing")
	}
	if got := m.Mapper.Doorbells(); got != 2 {
		t.Errorf("%d doorbells, want one per queue", got)
	}
}

func TestExchange(t *testing.T) {
	for _, test := range []struct {
		name     string
		features uint64
		noBells  bool
	}{
		{"flags", modern, false}, {"event index", allRing, false}, {"trapped doorbell", allRing | devFlag, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := virtiotest.New(t)
			m.Mapper.NoDoorbells = test.noBells
			dev := &echo{}
			tr, d := m.Plug(dev)
			d.Start(test.features, 3)
			for i, text := range []string{"a", "bc", "def"} {
				if got := exchange(t, m, d, i%2, text); got != text {
					t.Errorf("queue %d: got %q, want %q", i%2, got, text)
				}
			}
			d.Reset()
			if dev.active.Load() {
				t.Error("device is active after a reset")
			}
			d.Start(test.features, 3)
			if got := exchange(t, m, d, 0, "again"); got != "again" {
				t.Errorf("after a reset: %q", got)
			}
			if err := tr.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestINTx(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(&echo{})
	d.Start(modern, 0)
	gsi := pci.GSI(d.Slot, 1)
	in, _ := m.Alloc(4)
	d.Rings[0].Add(virtqtest.Buf{Addr: in, Len: 4})
	d.Kick(0)
	for !m.IRQ.Level(gsi) {
		runtime.Gosched()
	}
	if got := d.ISR(); got != 1 {
		t.Errorf("ISR %#x", got)
	}
	if m.IRQ.Level(gsi) || d.ISR() != 0 {
		t.Error("reading ISR did not acknowledge")
	}
}

func TestNegotiation(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(&echo{})
	if got := d.Features(); got != allRing|devFlag {
		t.Errorf("offered %#x", got)
	}
	d.SetCommon(virtiotest.DeviceSelect, 4, 2)
	if got := d.Common(virtiotest.DeviceFeature, 4); got != 0 {
		t.Errorf("features 64 and up: %#x", got)
	}
	for _, bad := range []uint64{0, devFlag, modern | 1<<40, modern | 1} {
		d.Reset()
		if d.Accept(bad) {
			t.Errorf("features %#x were accepted", bad)
		}
		d.SetCommon(virtiotest.Status, 1, 0xf)
		if d.Common(virtiotest.Status, 1)&virtiotest.DriverOK != 0 {
			t.Errorf("features %#x: driver OK without features OK", bad)
		}
	}
	d.Reset()
	if !d.Accept(modern) {
		t.Fatal("version 1 alone was refused")
	}
	d.SetCommon(virtiotest.DriverSelect, 4, 0)
	d.SetCommon(virtiotest.DriverFeature, 4, devFlag)
	if got := d.Common(virtiotest.DriverFeature, 4); got != 0 {
		t.Errorf("features changed to %#x after features OK", got)
	}
	d.SetCommon(virtiotest.Status, 1, 1) // clears nothing
	if got := d.Common(virtiotest.Status, 1); got != 0xb {
		t.Errorf("status %#x", got)
	}
}

func TestQueueRegisters(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(&echo{})
	d.Accept(modern)
	if got := d.Common(virtiotest.NumQueues, 2); got != 2 {
		t.Errorf("%d queues", got)
	}
	d.SetCommon(virtiotest.QueueSelect, 2, 7)
	d.SetCommon(virtiotest.QueueSize, 2, 4)
	if got := d.Common(virtiotest.QueueSize, 2); got != 0 {
		t.Errorf("a queue that is not there has size %d", got)
	}
	d.SetCommon(virtiotest.QueueSelect, 2, 1)
	for _, bad := range []uint64{0, 3, 16, 0xffff} {
		d.SetCommon(virtiotest.QueueSize, 2, bad)
		if got := d.Common(virtiotest.QueueSize, 2); got != 8 {
			t.Errorf("size %d made it %d", bad, got)
		}
	}
	d.SetCommon(virtiotest.QueueSize, 2, 4)
	d.SetCommon(virtiotest.QueueVector, 2, 9)
	if got := d.Common(virtiotest.QueueVector, 2); got != 0xffff {
		t.Errorf("a vector that is not there reads back as %#x", got)
	}
	d.SetCommon(virtiotest.QueueDesc, 8, 0x1122334455667788)
	d.SetCommon(virtiotest.QueueDesc+4, 4, 0xaabbccdd)
	d.SetCommon(virtiotest.QueueDesc, 2, 0) // not a width of this register
	d.SetCommon(virtiotest.QueueDesc+2, 4, 0)
	if got := d.Common(virtiotest.QueueDesc, 8); got != 0xaabbccdd55667788 {
		t.Errorf("descriptor address %#x", got)
	}
	if got := d.Common(virtiotest.QueueSelect, 4); got != 4<<16|1 {
		t.Errorf("select and size read at once: %#x", got)
	}
	d.SetCommon(virtiotest.QueueEnable, 2, 1)
	d.SetCommon(virtiotest.QueueSize, 2, 2)
	d.SetCommon(virtiotest.QueueDesc, 8, 0)
	d.SetCommon(virtiotest.QueueEnable, 2, 0)
	if d.Common(virtiotest.QueueSize, 2) != 4 || d.Common(virtiotest.QueueDesc, 8) == 0 || d.Common(virtiotest.QueueEnable, 2) != 1 {
		t.Error("an enabled queue changed")
	}
	d.Reset()
	d.SetCommon(virtiotest.QueueSelect, 2, 1)
	if d.Common(virtiotest.QueueSize, 2) != 8 || d.Common(virtiotest.QueueEnable, 2) != 0 {
		t.Error("a reset did not restore the queue")
	}
}

func TestDeviceConfig(t *testing.T) {
	m := virtiotest.New(t)
	dev := &echo{config: [4]byte{1, 2, 3, 4}}
	tr, d := m.Plug(dev)
	if got := d.Device(0, 8); got != 0x04030201 {
		t.Errorf("configuration %#x", got)
	}
	m.Write(d.BAR+d.Caps[virtiotest.CapDevice].Off+3, 4, 0x0909) // its last byte and beyond
	if dev.config != [4]byte{1, 2, 3, 9} {
		t.Errorf("configuration %v", dev.config)
	}
	gen := d.Common(virtiotest.Generation, 1)
	d.Start(modern, 3)
	if err := tr.ConfigChanged(); err != nil {
		t.Fatal(err)
	}
	if got := d.Common(virtiotest.Generation, 1); got == gen {
		t.Error("generation did not change")
	}
	if got := m.IRQ.Count(d.Message(0)); got != 1 {
		t.Errorf("%d configuration interrupts", got)
	}
	// With MSI-X, the ISR status has configuration changes and no queues (4.1.4.5.1).
	exchange(t, m, d, 0, "x")
	if got := d.ISR(); got != 2 {
		t.Errorf("ISR %#x after a configuration change", got)
	}
	if exchange(t, m, d, 0, "x"); d.ISR() != 0 {
		t.Error("the ISR status has a queue's interrupt")
	}
}

// The PCI configuration access capability reaches the BAR without memory decoding.
func TestConfigAccess(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(&echo{})
	d.SetConfig(pci.RegCommand, 2, 0)
	at := func(off, n uint64) {
		d.SetConfig(d.PCICfg+4, 1, 0)
		d.SetConfig(d.PCICfg+8, 4, off)
		d.SetConfig(d.PCICfg+12, 4, n)
	}
	at(d.Caps[virtiotest.CapCommon].Off+virtiotest.NumQueues, 2)
	if got := d.Config(d.PCICfg+16, 2); got != 2 {
		t.Errorf("%d queues", got)
	}
	at(d.Caps[virtiotest.CapCommon].Off+virtiotest.Status, 1)
	d.SetConfig(d.PCICfg+16, 1, 1)
	if got := d.Config(d.PCICfg+16, 1); got != 1 {
		t.Errorf("status %#x", got)
	}
	for _, bad := range [][2]uint64{{0, 0}, {0, 3}, {1, 4}, {0x8000, 4}, {0xffffffff, 1}, {0, 0xffffffff}} {
		at(bad[0], bad[1])
		d.SetConfig(d.PCICfg+16, 4, 0xffffffff)
		d.Config(d.PCICfg+16, 4)
	}
	at(d.Caps[virtiotest.CapISR].Off, 1) // takes the interrupt's lock under the function's
	d.Config(d.PCICfg+16, 1)
}

// A boot should take few exits: this is what the driver alone makes per device.
func TestExitsPerDevice(t *testing.T) {
	m := virtiotest.New(t)
	_, d := m.Plug(virtio.NewRNG())
	before := m.Exits()
	d.Start(allRing, 2)
	setup := m.Exits() - before
	if setup > 40 {
		t.Errorf("%d exits to set up one queue", setup)
	}
	before = m.Exits()
	out, _ := m.Alloc(64)
	d.Rings[0].Add(virtqtest.Buf{Addr: out, Len: 64, Write: true})
	d.Kick(0)
	m.IRQ.Wait(d.Message(1), 1)
	if got := m.Exits() - before; got != 0 {
		t.Errorf("%d exits for one request", got)
	}
}

func BenchmarkCommonRead(b *testing.B) {
	m := virtiotest.New(b)
	_, d := m.Plug(&echo{})
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		m.Memory.Read(d.BAR+virtiotest.DeviceFeature, p)
	}
}

// TestCloseWithin: a device whose requests the host holds up does not hold up who closes it.
func TestCloseWithin(t *testing.T) {
	m := virtiotest.New(t)
	e := &echo{block: make(chan struct{})}
	tr, drv := m.Plug(e)
	drv.Start(allRing|devFlag, 3)
	for e.serving.Load() == 0 {
		runtime.Gosched()
	}
	done, err := tr.CloseWithin(10 * time.Millisecond)
	if done == nil || err != nil {
		t.Fatalf("closed under a request: %v", err)
	}
	close(e.block)
	<-done
	if done, err := tr.CloseWithin(time.Minute); done != nil || err != nil {
		t.Errorf("closed at last: %v", err)
	}
}
