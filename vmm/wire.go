package vmm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/devices/passthrough"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/kvm"
)

// NewWire makes a level-triggered line at a pin of the I/O APIC whose both directions are
// eventfds. Several may share a pin, also with lines that Line returned.
func (i interrupts) NewWire(gsi uint32) (passthrough.Wire, error) {
	if gsi >= layout.GSIPins {
		return nil, fmt.Errorf("GSI %d is not a pin of the I/O APIC", gsi)
	}
	trigger, err := sys.NewEventFD()
	if err != nil {
		return nil, err
	}
	resample, err := sys.NewEventFD()
	if err != nil {
		return nil, errors.Join(err, trigger.Close())
	}
	return &wire{vm: i.vm, gsi: gsi, trigger: trigger, resample: resample}, nil
}

// wire is a resampling irqfd.
type wire struct {
	vm                *kvm.VM
	gsi               uint32
	trigger, resample *sys.EventFD

	mu       sync.Mutex
	attached bool
	closed   bool
}

func (w *wire) Trigger() int  { return w.trigger.Int() }
func (w *wire) Resample() int { return w.resample.Int() }

func (w *wire) AwaitResample() error {
	_, err := w.resample.Wait()
	return err
}

func (w *wire) Attach() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("attach: the line is closed")
	}
	if w.attached {
		return nil
	}
	w.trigger.TryWait() // of an earlier time
	if err := w.vm.AttachIRQFD(w.gsi, w.trigger.Int(), w.resample.Int()); err != nil {
		return err
	}
	w.attached = true
	return nil
}

// Detach also deasserts the line.
func (w *wire) Detach() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.detach()
}

func (w *wire) detach() error {
	if !w.attached {
		return nil
	}
	w.attached = false
	return w.vm.DetachIRQFD(w.gsi, w.trigger.Int())
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.detach(), w.trigger.Close(), w.resample.Close())
}
