package passthrough

import (
	"errors"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/vfio"
)

// watcher waits for a notification of a device.
type watcher struct {
	hw    Hardware
	kind  vfio.IRQ
	event *sys.EventFD
}

// watch calls fn, in another goroutine, each time that the device signals.
func watch(hw Hardware, kind vfio.IRQ, fn func()) (*watcher, error) {
	event, err := sys.NewEventFD()
	if err != nil {
		return nil, err
	}
	w := &watcher{hw: hw, kind: kind, event: event}
	if err := hw.Notify(kind, event.Int()); err != nil {
		return nil, errors.Join(err, event.Close())
	}
	go func() {
		for {
			if _, err := event.Wait(); err != nil {
				return
			}
			fn()
		}
	}()
	return w, nil
}

// close ends the watch. fn may still run; it is not waited for, as it may be what closes.
func (w *watcher) close() error {
	return errors.Join(w.hw.Notify(w.kind, -1), w.event.Close())
}
