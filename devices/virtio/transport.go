package virtio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/sys"
)

const (
	vendorID     = 0x1af4
	deviceIDBase = 0x1040 // 4.1.2.1
	noVector     = 0xffff

	isrQueue  = 1
	isrConfig = 2

	// resetGrace is how long the register write that resets a device waits. A reset
	// that takes longer goes on by itself; the status reads as 0 when it is done, which
	// drivers wait for (4.1.4.3.2).
	resetGrace = 20 * time.Millisecond
)

// Options says what a transport is connected to. All fields but Notice are needed.
type Options struct {
	Name   string // for errors: "console", "rng"
	Memory *guestmem.Memory
	IRQ    irq.Allocator
	// Notice is told that the device has stopped, and why, not more often than every few seconds. It may be called concurrently
	// and must not block. Nil ignores it.
	Notice func(text string)
}

// Transport puts a Device onto the PCI bus.
type Transport struct {
	o    Options
	dev  Device
	info Info
	fn   *pci.Function
	msix *pci.MSIX
	regs []queueRegs

	status       atomic.Uint32 // written with mu held but for statusNeedsReset
	configMu     sync.RWMutex  // held for writing while the device's configuration changes, see ChangeConfig
	generation   atomic.Uint32
	configVector atomic.Uint32

	mu             sync.Mutex // guards the registers
	deviceSelect   uint32
	driverSelect   uint32
	driverFeatures uint64
	queueSelect    uint16
	session        *session
	resetting      chan struct{} // not nil while a reset is under way; closed at its end
	closed         bool

	isrMu sync.Mutex
	isr   uint8

	faultMu sync.Mutex
	fault   error
	notices notices
}

// queueRegs is a queue as the driver sets it up.
type queueRegs struct {
	max                  uint16
	size                 uint16
	enabled              bool
	desc, driver, device uint64
	vector               atomic.Uint32
	bell                 *sys.EventFD
}

// New makes the transport of dev. The caller adds Function to a root bus, and closes the
// transport after it was removed from there.
func New(dev Device, o Options) (*Transport, error) {
	t := &Transport{o: o, dev: dev, info: dev.Info(), notices: notices{tell: o.Notice}}
	if err := t.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("virtio %s: %w", o.Name, err), t.Close())
	}
	t.clear()
	return t, nil
}

func (t *Transport) build() error {
	n := len(t.info.QueueSizes)
	if n > maxQueues || t.info.ConfigSize > regionSize {
		return fmt.Errorf("%d queues or %d bytes of configuration are too many", n, t.info.ConfigSize)
	}
	t.regs = make([]queueRegs, n)
	for i, size := range t.info.QueueSizes {
		if size == 0 || size > virtq.MaxSize || size&(size-1) != 0 {
			return fmt.Errorf("queue %d of %d descriptors, not a power of two", i, size)
		}
		bell, err := sys.NewEventFD()
		if err != nil {
			return err
		}
		t.regs[i].max, t.regs[i].bell = size, bell
	}
	if t.info.Vectors == 0 {
		t.info.Vectors = min(n+1, maxVectors)
	}
	if t.info.Vectors < 2 || t.info.Vectors > maxVectors {
		return fmt.Errorf("%d MSI-X vectors, not 2 to %d", t.info.Vectors, maxVectors)
	}
	var err error
	if t.msix, err = pci.NewMSIX(t.o.IRQ, t.info.Vectors); err != nil {
		return err
	}
	return t.buildFunction()
}

// Function returns the PCI function.
func (t *Transport) Function() *pci.Function { return t.fn }

// ConfigChanged tells the driver that the device's configuration changed. The device
// calls it after the change.
func (t *Transport) ConfigChanged() error { return t.ChangeConfig(func() {}) }

// ChangeConfig lets change change the device's configuration and tells the driver. No driver reads while change runs:
// one that has read a field in two parts sees by the generation that they do not belong together (4.1.4.3.1).
func (t *Transport) ChangeConfig(change func()) error {
	t.configMu.Lock()
	change()
	t.generation.Add(1)
	t.configMu.Unlock()
	if t.status.Load()&statusDriverOK == 0 {
		return nil
	}
	return t.interrupt(&t.configVector, isrConfig)
}

// Fail makes the device ask the driver for a reset, because of err (2.1.2), and tells the user: drivers tell nobody.
func (t *Transport) Fail(err error) {
	t.notices.say(func() string {
		return fmt.Sprintf("virtio %s has stopped, until the guest's driver resets it: %v", t.o.Name, err)
	})
	t.faultMu.Lock()
	t.fault = fmt.Errorf("virtio %s: %w", t.o.Name, err)
	t.faultMu.Unlock()
	if old := t.status.Or(statusNeedsReset); old&statusDriverOK != 0 && old&statusNeedsReset == 0 {
		_ = t.interrupt(&t.configVector, isrConfig) // the fault is what matters
	}
}

// Err returns why the device last asked for a reset, nil if it never did.
func (t *Transport) Err() error {
	t.faultMu.Lock()
	defer t.faultMu.Unlock()
	return t.fault
}

func (t *Transport) interrupt(vector *atomic.Uint32, isr uint8) error {
	if t.msix.Enabled() {
		if isr == isrConfig { // with MSI-X, too; a queue's bit is without it only (4.1.4.5.1)
			t.isrMu.Lock()
			t.isr |= isr
			t.isrMu.Unlock()
		}
		return t.msix.Trigger(int(vector.Load()))
	}
	t.isrMu.Lock()
	defer t.isrMu.Unlock()
	t.isr |= isr
	return t.fn.INTx().Set(true)
}

// takeISR reads and clears the ISR status, which ends the wired interrupt (4.1.4.5).
func (t *Transport) takeISR() uint8 {
	t.isrMu.Lock()
	defer t.isrMu.Unlock()
	v := t.isr
	t.isr = 0
	if v != 0 {
		_ = t.fn.INTx().Set(false) // nobody to tell but a guest that just acknowledged
	}
	return v
}

// activate makes the queues and starts the device. t.mu is held.
func (t *Transport) activate() error {
	s := &session{done: make(chan struct{}), queues: make([]*Queue, len(t.regs))}
	for i := range t.regs {
		r := &t.regs[i]
		if !r.enabled {
			continue
		}
		vq, err := virtq.New(t.o.Memory, virtq.Config{
			Size: r.size, Desc: r.desc, Avail: r.driver, Used: r.device,
			EventIdx: t.driverFeatures&FeatureEventIdx != 0,
			Indirect: t.driverFeatures&FeatureIndirect != 0,
		})
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		s.queues[i] = &Queue{Queue: vq, index: i, bell: r.bell, vector: &r.vector, t: t, stopped: &s.stopped, done: s.done}
	}
	a := &Activation{Features: t.driverFeatures, Queues: s.queues, Done: s.done, Transport: t}
	if err := t.dev.Activate(a); err != nil {
		return err
	}
	t.session = s
	s.start(t.dev)
	return nil
}

// beginReset starts a reset and returns the channel that is closed at its end. t.mu is held.
func (t *Transport) beginReset() <-chan struct{} {
	if t.resetting != nil {
		return t.resetting
	}
	done := make(chan struct{})
	s := t.session
	t.session = nil
	if s == nil {
		t.clear()
		close(done)
		return done
	}
	t.resetting = done
	go func() {
		s.stop()
		t.dev.Reset()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.clear()
		t.resetting = nil
		close(done)
	}()
	return done
}

// clear puts all registers into their initial state. t.mu is held, or the transport is new.
func (t *Transport) clear() {
	t.deviceSelect, t.driverSelect, t.driverFeatures, t.queueSelect = 0, 0, 0, 0
	for i := range t.regs {
		r := &t.regs[i]
		r.size, r.enabled = r.max, false
		r.desc, r.driver, r.device = 0, 0, 0
		r.vector.Store(noVector)
		r.bell.TryWait()
	}
	t.configVector.Store(noVector)
	t.takeISR()
	t.status.Store(0)
}

// Reset resets the device and waits until that is done, as long as the device takes.
func (t *Transport) Reset() {
	t.mu.Lock()
	done := t.beginReset()
	t.mu.Unlock()
	<-done
}

// CloseWithin is Close for a device whose requests may be held up for ever by the host. Where that takes longer than patience it gives
// up: then nothing is freed, guest memory is still used, and done is closed once that has ended. It is nil after a Close.
func (t *Transport) CloseWithin(patience time.Duration) (done <-chan struct{}, err error) {
	if t.fn != nil {
		t.mu.Lock()
		done := t.beginReset()
		t.mu.Unlock()
		select {
		case <-done:
		case <-time.After(patience):
			return done, nil
		}
	}
	return nil, t.Close()
}

// Close resets the device and frees doorbells and vectors. Further calls do nothing.
func (t *Transport) Close() error {
	if t.fn != nil {
		t.Reset()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	var errs []error
	for i := range t.regs {
		if b := t.regs[i].bell; b != nil {
			errs = append(errs, b.Close())
		}
	}
	if t.msix != nil {
		errs = append(errs, t.msix.Close())
	}
	return errors.Join(errs...)
}
