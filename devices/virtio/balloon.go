package virtio

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	balloonClass      = 0x00ff00
	balloonConfigSize = 16
	balloonQueueSize  = 128
	balloonPage       = 4096 // bytes, whatever the guest's pages are (5.5.6)

	// Features (5.5.3). Statistics and hints of free pages are not offered.
	balloonDeflateOnOOM = 1 << 2
	balloonReporting    = 1 << 5

	balloonInflate = 0 // queue
	balloonDeflate = 1
	// balloonOthers is the first of the queues for what is optional. Free page reporting has queue 4, and
	// Linux before 6.11 gives it the first one that no other feature needs. As none is offered,
	// all of these are for reporting.
	balloonOthers = 2
	balloonQueues = 5

	balloonActual = 4 // offset in the configuration
)

// Discarder gives guest memory back to the host. What was in it is gone: it reads as zeros.
type Discarder interface {
	// DiscardPages discards n bytes at gpa. Both are multiples of the page size. It ignores what is not RAM.
	DiscardPages(gpa, n uint64) (discarded uint64)
	// DiscardBytes discards whole pages within b, a piece of guest RAM.
	DiscardBytes(b []byte) (discarded uint64)
}

// Balloon is a virtio memory balloon (5.5): the host asks the guest for pages and gives them
// back to the system, and the guest reports by itself what it has free. Its methods may be
// called concurrently.
type Balloon struct {
	memory Discarder
	// limit is how many pages one request may name: those that the guest has.
	limit uint64

	target   atomic.Uint32 // pages that the guest is asked for
	actual   atomic.Uint32 // pages that it says it has given
	reported atomic.Uint64 // bytes of free pages ever reported

	mu        sync.Mutex
	transport *Transport // nil while the device is not active

	chains [balloonQueues]virtq.Chain // each of its queue's goroutine
	pfns   [1024]byte                 // of the inflate queue's
}

// NewBalloon makes a balloon for a guest with size bytes of RAM.
func NewBalloon(memory Discarder, size uint64) *Balloon {
	return &Balloon{memory: memory, limit: size / balloonPage}
}

// BalloonState is in bytes.
type BalloonState struct {
	Target   uint64 // what the guest is asked for
	Actual   uint64 // what it says it has given
	Reported uint64 // what it has reported as free since it booted, counted each time
}

// State returns how things are.
func (b *Balloon) State() BalloonState {
	return BalloonState{
		Target: uint64(b.target.Load()) * balloonPage, Actual: uint64(b.actual.Load()) * balloonPage, Reported: b.reported.Load(),
	}
}

// SetTarget asks the guest for bytes of its memory, rounded up to pages, at most all of it; and to take back what it has given
// beyond that.
func (b *Balloon) SetTarget(bytes uint64) error {
	pages := min(bytes/balloonPage+min(bytes%balloonPage, 1), b.limit)
	b.target.Store(uint32(pages))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.transport == nil {
		return nil // the driver looks at its start
	}
	return b.transport.ConfigChanged()
}

// Active reports whether the guest has a driver for the balloon.
func (b *Balloon) Active() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.transport != nil
}

// Info implements Device.
func (b *Balloon) Info() Info {
	info := Info{
		Type: TypeBalloon, Class: balloonClass, Features: balloonDeflateOnOOM | balloonReporting,
		ConfigSize: balloonConfigSize, Vectors: 2,
	}
	for range balloonQueues {
		info.QueueSizes = append(info.QueueSizes, balloonQueueSize)
	}
	return info
}

// ReadConfig implements Device.
func (b *Balloon) ReadConfig(off int, p []byte) {
	var c [balloonConfigSize]byte
	binary.LittleEndian.PutUint32(c[0:], b.target.Load())
	binary.LittleEndian.PutUint32(c[balloonActual:], b.actual.Load())
	copy(p, c[off:])
}

// WriteConfig implements Device. The guest writes how many pages it has given.
func (b *Balloon) WriteConfig(off int, p []byte) {
	if off == balloonActual && len(p) == 4 {
		b.actual.Store(binary.LittleEndian.Uint32(p))
	}
}

// Activate implements Device.
func (b *Balloon) Activate(a *Activation) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.transport = a.Transport
	return nil
}

// Reset implements Device. A driver that begins anew has given nothing.
func (b *Balloon) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.transport = nil
	b.actual.Store(0)
}

// Serve implements Device.
func (b *Balloon) Serve(q *Queue) error {
	chain := &b.chains[q.Index()]
	switch q.Index() {
	case balloonInflate:
		return q.Drain(chain, func(c *virtq.Chain) (uint32, error) { return b.inflate(q, c) })
	case balloonDeflate:
		return q.Drain(chain, deflate)
	}
	return q.Drain(chain, b.report)
}

// deflate takes pages that the guest uses again: they come by themselves when they are touched.
func deflate(*virtq.Chain) (uint32, error) { return 0, nil }

// inflate discards the pages whose numbers a chain lists, neighbours at once. More numbers than the guest has
// pages are not looked at.
func (b *Balloon) inflate(q *Queue, c *virtq.Chain) (uint32, error) {
	var run pageRun
	for seen := uint64(0); seen < b.limit && !q.Stopped(); {
		n, _ := c.Read(b.pfns[:])
		if n < 4 {
			break // the end; a part of a number is none
		}
		for list := b.pfns[:n&^3]; len(list) > 0; list = list[4:] {
			if pfn := uint64(binary.LittleEndian.Uint32(list)); !run.join(pfn) {
				b.discard(run)
				run = pageRun{pfn, 1}
			}
			seen++
		}
	}
	b.discard(run)
	return 0, nil
}

func (b *Balloon) discard(r pageRun) {
	if r.n > 0 {
		b.memory.DiscardPages(r.first*balloonPage, r.n*balloonPage)
	}
}

// pageRun is a range of neighbouring pages.
type pageRun struct{ first, n uint64 }

// join adds a page to the run if it is its neighbour.
func (r *pageRun) join(pfn uint64) bool {
	switch {
	case r.n == 0:
		return false
	case pfn == r.first+r.n:
		r.n++
	case pfn+1 == r.first:
		r.first, r.n = pfn, r.n+1
	default:
		return false
	}
	return true
}

// report discards what the guest has free for as long as it waits for the answer.
func (b *Balloon) report(c *virtq.Chain) (uint32, error) {
	for _, part := range c.Writable() {
		b.reported.Add(b.memory.DiscardBytes(part))
	}
	return 0, nil
}
