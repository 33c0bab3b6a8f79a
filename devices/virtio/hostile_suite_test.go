package virtio_test

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
)

// victim is a device under attack by its guest.
type victim struct {
	t    testing.TB
	m    *virtiotest.Machine
	d    *virtiotest.Driver
	info virtio.Info
	ram  uint64 // guest-physical address of memory for the attack's buffers
	buf  []byte
	rng  *rand.Rand
}

const (
	victimRAM = 64 << 10 // bytes of victim.buf
	ramEnd    = virtiotest.MemorySize
)

// testHostile attacks a device in each of the ways of hostileCases. newDevice makes one with all that stands behind it, which is
// gone when the test ends. After each attack the device must work again once it has been reset, and when it is closed
// nothing of it may be left. Every virtio device has a test that calls this.
func testHostile(t *testing.T, newDevice func(testing.TB) virtio.Device) {
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			t.Run("attack", func(t *testing.T) { // its cleanup ends the machine
				v := newVictim(t, newDevice(t))
				bar := v.d.BAR
				c.attack(v)
				v.heal(bar)
			})
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if runtime.NumGoroutine() <= before {
					return
				}
			}
			stacks := make([]byte, 64<<10)
			t.Errorf("%d goroutines are left, there were %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		})
	}
}

// newVictim plugs the device into a machine of its own.
func newVictim(t testing.TB, dev virtio.Device) *victim {
	v := &victim{t: t, m: virtiotest.New(t), info: dev.Info(), rng: rand.New(rand.NewPCG(1, 2))}
	_, v.d = v.m.Plug(dev)
	v.ram, v.buf = v.m.Alloc(victimRAM)
	return v
}

// heal puts the BAR back, and checks that the device comes up after a reset and stays well.
func (v *victim) heal(bar uint64) {
	v.t.Helper()
	v.d.SetConfig(pci.RegCommand, 2, 0)
	v.d.SetConfig(pci.RegBAR0, 4, bar&0xffffffff)
	v.d.SetConfig(pci.RegBAR0+4, 4, bar>>32)
	v.d.SetConfig(pci.RegCommand, 2, pci.CommandMemory|pci.CommandMaster)
	v.d.BAR = bar
	v.start()
	for i := range v.queues() {
		v.d.Kick(i)
	}
	if got := v.d.Common(virtiotest.Status, 1); got != 0xf {
		v.t.Errorf("status %#x after the device was reset and brought up", got)
	}
	v.d.Reset()
}

func (v *victim) queues() int { return len(v.info.QueueSizes) }

// start brings the device up with all that it offers.
func (v *victim) start() {
	v.d.Reset() // one that is under way takes no writes, such as those by which features are read
	v.d.Start(v.d.Features(), v.queues()+1)
}

// kickAll rings every queue.
func (v *victim) kickAll() {
	for i := range v.queues() {
		v.d.Kick(i)
	}
}

// settle waits until the device has noticed what was done to it, or has had the time for it.
func (v *victim) settle() {
	for range 20 {
		if v.d.Common(virtiotest.Status, 1)&virtiotest.NeedsReset != 0 {
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// fill puts random bytes where requests begin.
func (v *victim) fill() {
	for i := range v.buf[:4096] {
		v.buf[i] = byte(v.rng.Uint32())
	}
}

func TestHostileCount(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range hostileCases {
		if seen[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		seen[c.name] = true
	}
	if len(hostileCases) < 40 {
		t.Errorf("%d cases", len(hostileCases))
	}
	t.Logf("%d cases for each device", len(hostileCases))
}

func TestHostileConsole(t *testing.T) { testHostile(t, newHostileConsole) }

func newHostileConsole(testing.TB) virtio.Device {
	return virtio.NewConsole(virtio.ConsoleOptions{Ports: []string{"agent", "other"}})
}

func TestHostileRNG(t *testing.T) {
	testHostile(t, func(testing.TB) virtio.Device { return virtio.NewRNG() })
}

func TestHostile9P(t *testing.T) { testHostile(t, newHostile9P) }

func newHostile9P(t testing.TB) virtio.Device {
	s, err := share.New(share.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	dev, err := virtio.NewP9("hostile", s)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func TestHostileBlk(t *testing.T) {
	testHostile(t, func(t testing.TB) virtio.Device {
		dev, err := virtio.NewBlk(virtio.BlkOptions{Image: newMemDisk(), Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		return dev
	})
}

// The network has frames for the guest from the start.
func TestHostileNet(t *testing.T) {
	testHostile(t, func(t testing.TB) virtio.Device {
		w := newWire(2)
		for i := range 100 {
			w.pair(i % 2).toGuest <- frame(14 + i*10)
		}
		dev, err := virtio.NewNet(testMAC, w)
		if err != nil {
			t.Fatal(err)
		}
		return dev
	})
}

func TestHostileEcho(t *testing.T) {
	testHostile(t, func(testing.TB) virtio.Device { return &echo{} })
}
