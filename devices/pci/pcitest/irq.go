// Package pcitest has fakes of what package pci needs of a VM: interrupts and a Mapper.
package pcitest

import (
	"errors"
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
)

// IRQ is an irq.Allocator that records what it delivers. It may be used concurrently.
type IRQ struct {
	mu      sync.Mutex
	changed sync.Cond
	counts  map[irq.Message]int
	lines   map[uint32]*Line
	vectors int // open
	limit   int // 0 for none
}

// NewIRQ returns an allocator of at most limit vectors, 0 for no limit.
func NewIRQ(limit int) *IRQ {
	q := &IRQ{counts: map[irq.Message]int{}, lines: map[uint32]*Line{}, limit: limit}
	q.changed.L = &q.mu
	return q
}

// ErrNoVectors is what NewVector returns at the limit.
var ErrNoVectors = errors.New("no vectors left")

// NewVector implements irq.Allocator.
func (q *IRQ) NewVector() (irq.Vector, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.limit > 0 && q.vectors >= q.limit {
		return nil, ErrNoVectors
	}
	q.vectors++
	return &Vector{q: q}, nil
}

// Line implements irq.Allocator.
func (q *IRQ) Line(gsi uint32) (irq.Line, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[gsi]
	if l == nil {
		l = &Line{q: q}
		q.lines[gsi] = l
	}
	return l, nil
}

// Open returns how many vectors are not closed.
func (q *IRQ) Open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.vectors
}

// Count returns how often the message was delivered.
func (q *IRQ) Count(m irq.Message) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts[m]
}

// Wait blocks until the message was delivered at least n times.
func (q *IRQ) Wait(m irq.Message, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.counts[m] < n {
		q.changed.Wait()
	}
}

// Level returns the level of a line.
func (q *IRQ) Level(gsi uint32) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[gsi]
	return l != nil && l.level
}

// Vector is a vector of IRQ. Its EventFD is not backed by a descriptor.
type Vector struct {
	q       *IRQ
	msg     irq.Message
	routed  bool
	pending bool
	closed  bool
}

// Route implements irq.Vector.
func (v *Vector) Route(m irq.Message) error {
	v.q.mu.Lock()
	defer v.q.mu.Unlock()
	v.msg, v.routed = m, true
	return nil
}

// Unroute implements irq.Vector.
func (v *Vector) Unroute() error {
	v.q.mu.Lock()
	defer v.q.mu.Unlock()
	v.routed = false
	return nil
}

// Trigger implements irq.Vector.
func (v *Vector) Trigger() error {
	v.q.mu.Lock()
	defer v.q.mu.Unlock()
	if !v.routed {
		v.pending = true
		return nil
	}
	v.q.counts[v.msg]++
	v.q.changed.Broadcast()
	return nil
}

// Pending implements irq.Vector.
func (v *Vector) Pending() bool {
	v.q.mu.Lock()
	defer v.q.mu.Unlock()
	p := v.pending
	v.pending = false
	return p
}

// EventFD implements irq.Vector.
func (v *Vector) EventFD() (int, error) { return -1, nil }

// Close implements irq.Vector.
func (v *Vector) Close() error {
	v.q.mu.Lock()
	defer v.q.mu.Unlock()
	if !v.closed {
		v.closed = true
		v.routed = false
		v.q.vectors--
	}
	return nil
}

// Line is a line of IRQ.
type Line struct {
	q     *IRQ
	level bool
}

// Set implements irq.Line.
func (l *Line) Set(level bool) error {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	l.level = level
	return nil
}
