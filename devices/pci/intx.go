package pci

import (
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/internal/layout"
)

// GSI returns the global system interrupt of a slot's pin (1 for INTA#): pins rotate by
// slot over the INTx lines, as the DSDT's _PRT says too.
func GSI(slot int, pin uint8) uint32 {
	return layout.GSIINTx + uint32(slot+int(pin)-1)%layout.INTxLines
}

// INTx is a function's interrupt pin. Its methods may be called concurrently, also in
// config hooks.
type INTx struct {
	pin  uint8
	view *view

	mu       sync.Mutex
	level    bool
	disabled bool // COMMAND's interrupt disable bit
	driven   bool // what this function does to the line
	line     *sharedLine
}

// INTx returns the function's interrupt pin. Setting the level of a function without
// one does nothing.
func (f *Function) INTx() *INTx { return &f.intx }

// Set asserts or deasserts the pin. It reaches the line unless the guest disabled INTx.
func (x *INTx) Set(level bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.level != level {
		x.view.setLevel(level)
	}
	x.level = level
	return x.drive()
}

func (x *INTx) disable(disabled bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.disabled != disabled {
		x.disabled = disabled
		_ = x.drive() // the guest's view stays consistent; a later Set reports errors
	}
}

func (x *INTx) asserted() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.level
}

func (x *INTx) connect(l *sharedLine) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.driven && x.line != nil {
		_ = x.line.set(false)
		x.driven = false
	}
	x.line = l
	_ = x.drive()
}

func (x *INTx) drive() error {
	want := x.level && !x.disabled
	if x.line == nil || want == x.driven {
		return nil
	}
	x.driven = want
	return x.line.set(want)
}

// sharedLine is one line with several functions on it: it is high while any drives it.
type sharedLine struct {
	mu    sync.Mutex
	line  irq.Line
	users int
}

func (l *sharedLine) set(level bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level {
		l.users++
		if l.users > 1 {
			return nil
		}
	} else if l.users--; l.users > 0 {
		return nil
	}
	return l.line.Set(level)
}
