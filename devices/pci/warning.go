package pci

import (
	"errors"
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/devices/bus"
)

// maxWarnings is how many warnings a function gives: a guest can cause any number.
const maxWarnings = 10

// warnings passes on, once each, what a guest asked of a function and the host could not do. It has a lock of its own, as it
// is called with and without the function's.
type warnings struct {
	mu   sync.Mutex
	tell func(error) // nil before the function is on a bus, and where nobody wants to know
	told map[string]bool
}

func (w *warnings) connect(name string, tell func(string, error)) {
	if tell == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell, w.told = func(err error) { tell(name, err) }, make(map[string]bool)
}

// add passes err on unless somebody knows of it already, or it is the guest's own doing.
func (w *warnings) add(err error) {
	if err == nil || errors.Is(err, bus.ErrOverlap) || errors.As(err, new(*reported)) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	text := err.Error()
	if w.tell == nil || w.told[text] || len(w.told) >= maxWarnings {
		return
	}
	w.told[text] = true
	w.tell(err)
}

// reported is an error that the user knows of.
type reported struct{ error }

func (r *reported) Unwrap() error { return r.error }

// Reported returns err for a callback whose owner has warned of it: Options.Warn is not told again.
func Reported(err error) error {
	if err == nil {
		return nil
	}
	return &reported{err}
}

// silentVector says what a failed allocation or routing means to the guest.
func silentVector(kind string, i int, err error) error {
	return fmt.Errorf("the guest's %s vector %d stays silent: %w", kind, i, err)
}
