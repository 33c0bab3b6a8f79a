// Package bus routes the guest's port and memory accesses to what answers them. Ports
// and memory are two buses of the same type.
//
// Dispatch takes no lock and allocates nothing: regions stand in a sorted slice that
// Add and Detach replace whole. What keeps a handler alive while it runs is a count in
// its registration, so removal can wait for it.
package bus

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrOverlap is wrapped by Add's error when the region is taken.
var ErrOverlap = errors.New("region overlaps another")

// Handler answers accesses to one region. off is relative to the region's start, and
// off+len(p) never exceeds its size. p is 1 to 8 bytes for accesses by instructions,
// in little-endian order, and may have any length where an access straddled regions;
// it must not be kept. Several vCPUs may call at once.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Bus is one address space. The zero value is an empty bus, ready for use. All methods
// may be called concurrently.
type Bus struct {
	mu      sync.Mutex // serialises changes
	regions atomic.Pointer[[]*Registration]
	gone    map[string]uint64 // accesses to regions that left, by name

	unclaimed atomic.Uint64 // accesses that hit nothing
}

// Add routes [start, start+size) to h. name appears in errors.
func (b *Bus) Add(name string, start, size uint64, h Handler) (*Registration, error) {
	if size == 0 || size-1 > math.MaxUint64-start {
		return nil, fmt.Errorf("bus: add %s at %#x, %#x bytes: empty or beyond the address space", name, start, size)
	}
	r := &Registration{bus: b, name: name, start: start, last: start + size - 1, handler: h, idle: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.snapshot()
	i := search(old, start)
	if i < len(old) && old[i].start <= r.last {
		return nil, fmt.Errorf("bus: add %s at %#x, %#x bytes: %w: %s at %#x, %#x bytes", name, start, size,
			ErrOverlap, old[i].name, old[i].start, old[i].last-old[i].start+1)
	}
	next := make([]*Registration, 0, len(old)+1)
	next = append(next, old[:i]...)
	next = append(next, r)
	next = append(next, old[i:]...)
	b.regions.Store(&next)
	return r, nil
}

func (b *Bus) remove(r *Registration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.snapshot()
	i := slices.Index(old, r)
	if i < 0 {
		return
	}
	b.retire(r)
	next := slices.Concat(old[:i], old[i+1:])
	b.regions.Store(&next)
}

func (b *Bus) snapshot() []*Registration {
	if s := b.regions.Load(); s != nil {
		return *s
	}
	return nil
}

// search returns the index of the first region that ends at or behind addr.
func search(regions []*Registration, addr uint64) int {
	lo, hi := 0, len(regions)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if regions[mid].last < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Read fills p with what the guest reads at addr. Bytes that no region claims read as
// ones. An access that straddles regions is split at their borders, in ascending order.
// The result is false if any byte was unclaimed.
func (b *Bus) Read(addr uint64, p []byte) bool { return b.access(addr, p, false) }

// Write passes p to what is at addr; bytes that no region claims are dropped. It splits
// and reports as Read does.
func (b *Bus) Write(addr uint64, p []byte) bool { return b.access(addr, p, true) }

func (b *Bus) access(addr uint64, p []byte, write bool) bool {
	claimed := true
	for len(p) > 0 {
		r, n := b.enter(addr, len(p))
		switch {
		case r == nil:
			claimed = false
			b.unclaimed.Add(1)
			if !write {
				ones(p[:n])
			}
		case write:
			r.handler.Write(addr-r.start, p[:n:n])
			r.leave()
		default:
			r.handler.Read(addr-r.start, p[:n:n])
			r.leave()
		}
		p = p[n:]
		addr += uint64(n) // wraps to 0 behind the last address
	}
	return claimed
}

// enter finds the region at addr and counts the caller in; it returns how many of the n
// bytes belong to it, or to the hole at addr.
func (b *Bus) enter(addr uint64, n int) (*Registration, int) {
	for {
		regions := b.snapshot()
		i := search(regions, addr)
		if i == len(regions) {
			return nil, clip(n, math.MaxUint64-addr)
		}
		r := regions[i]
		if r.start > addr {
			return nil, clip(n, r.start-addr-1)
		}
		if r.enter() {
			r.hits.Add(1)
			return r, clip(n, r.last-addr)
		}
		// The region went between the load and the count: Detach marks it after the
		// new slice is published, so the next look does not find it.
	}
}

// clip returns n, but at most more+1.
func clip(n int, more uint64) int {
	if uint64(n-1) > more {
		return int(more) + 1
	}
	return n
}

func ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
