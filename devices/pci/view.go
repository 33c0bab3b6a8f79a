package pci

import (
	"fmt"
	"slices"
	"sync"

	"github.com/stile-vmm/stile/internal/layout"
)

// view is a function's page of config space in memory that the guest reads by itself: a
// booting Linux reads config space some 150 times per function, and each read that is
// trapped is an exit. Writes are trapped. The function's lock is not held by who sets the
// interrupt status, hence a lock of its own, taken last.
type view struct {
	mu    sync.Mutex
	page  []byte // nil without such memory
	level bool   // what the interrupt status bit shows
}

// publish makes the guest read what f emulates. f's lock is held.
func (f *Function) publish() {
	v := f.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.page == nil {
		return
	}
	// The byte with the interrupt bit apart: it must never be seen without that.
	f.emulated(0, v.page[:RegStatus])
	f.emulated(RegStatus+1, v.page[RegStatus+1:])
	v.page[RegStatus] = statusByte(f.cfg.data[RegStatus], v.level)
}

// setLevel shows the level of the interrupt pin.
func (v *view) setLevel(level bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.level = level
	if v.page != nil {
		v.page[RegStatus] = statusByte(v.page[RegStatus], level)
	}
}

func (v *view) attach(page []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.page = page
}

func statusByte(b byte, level bool) byte {
	b &^= statusInterrupt
	if level {
		b |= statusInterrupt
	}
	return b
}

// page returns the view's page of function number at, nil without config memory.
func (r *Root) page(at int) []byte {
	if r.o.Config == nil {
		return nil
	}
	return r.o.Config[at*ConfigSize : (at+1)*ConfigSize : (at+1)*ConfigSize]
}

// readable reports whether the guest may read f's config space from memory: nobody
// computes it when it is read.
func (f *Function) readable() bool { return !f.computed.Load() }

// armHooks notes a guest's write at off, after which some hooks compute what is read.
func (f *Function) armHooks(off int, p []byte) {
	for _, h := range f.hooks {
		if _, part := h.clip(off, p); part != nil {
			h.written = true
		}
	}
	if f.noteComputed() && f.root != nil {
		f.root.remapConfig()
	}
}

// noteComputed works out whether reads of f are computed, and reports whether that is new.
func (f *Function) noteComputed() bool {
	computed := slices.ContainsFunc(f.hooks, func(h *Hook) bool { return h.Read != nil && (!h.ReadAfterWrite || h.written) })
	return f.computed.Swap(computed) != computed
}

// remapConfig takes functions whose reads have become computed out of the config memory.
// Meanwhile all reads are trapped. A refused slot leaves them so.
func (r *Root) remapConfig() {
	r.viewMu.Lock()
	defer r.viewMu.Unlock()
	if len(r.views) == 0 {
		return
	}
	r.unmapConfig()
	if r.mapConfig() != nil {
		r.unmapConfig()
	}
}

// mapConfig gives the guest the config memory, but for functions whose reads are
// computed. viewMu is held.
func (r *Root) mapConfig() error {
	if r.o.Config == nil {
		return nil
	}
	for at := 0; at < len(r.table); {
		end := at
		for end < len(r.table) {
			if f := r.table[end].Load(); f != nil && !f.readable() {
				break
			}
			end++
		}
		if err := r.mapPages(at, end-at); err != nil {
			return err
		}
		at = end + 1
	}
	return nil
}

// mapPages maps the config memory of n functions from number at on.
func (r *Root) mapPages(at, n int) error {
	if n == 0 {
		return nil
	}
	h := Host{Off: uint64(at) * ConfigSize, Size: uint64(n) * ConfigSize, ReadOnly: true}
	h.Addr = r.o.ConfigAddr + uintptr(h.Off)
	if err := r.o.Mapper.MapHost(layout.ECAM+h.Off, h); err != nil {
		return fmt.Errorf("pci: map config space: %w", err)
	}
	r.views = append(r.views, h)
	return nil
}

// unmapConfig takes the config memory from the guest. viewMu is held.
func (r *Root) unmapConfig() {
	for _, h := range r.views {
		_ = r.o.Mapper.UnmapHost(layout.ECAM+h.Off, h) // the memory outlives the VM in any case
	}
	r.views = nil
}
