// Package virtq is the device's side of split virtqueues (virtio 1.3, 2.7) in guest
// memory. Every descriptor is copied once and the copy is checked once; what comes out
// is a chain of slices of guest RAM. A guest that breaks the rules gets an error that
// wraps ErrGuest, and the device asks for a reset.
package virtq

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/internal/guestmem"
)

// ErrGuest is wrapped by errors that the guest caused by breaking the virtqueue rules.
var ErrGuest = errors.New("guest broke the virtqueue rules")

const (
	// MaxSize is the largest queue size, in descriptors (virtio 1.3, 2.7).
	MaxSize = 32768
	// MaxChain bounds the descriptors of one chain, and so the memory of a Chain.
	// Linux's block and file system drivers stay below 260.
	MaxChain = 1024

	maxLen = 1<<32 - 1 // bytes in one direction of a chain (2.7.5.2)

	descSize  = 16
	elemSize  = 8
	ringStart = 4 // of the available and used rings: behind flags and index

	flagNoNotify    = 1 // used.flags: the driver need not kick
	flagNoInterrupt = 1 // avail.flags: the device need not interrupt
)

// Config places a queue in guest memory. Addresses are guest-physical.
type Config struct {
	Size     uint16 // descriptors, a power of two
	Desc     uint64 // descriptor table, 16-byte aligned
	Avail    uint64 // available ring, 2-byte aligned
	Used     uint64 // used ring, 4-byte aligned
	EventIdx bool   // VIRTIO_F_EVENT_IDX was negotiated
	Indirect bool   // VIRTIO_F_INDIRECT_DESC was negotiated
}

// Queue is one virtqueue. Next has one caller at a time; all other methods may be called
// concurrently, also with Next.
type Queue struct {
	mem      *guestmem.Memory
	size     uint16
	eventIdx bool
	indirect bool
	desc     []byte
	avail    []byte
	used     []byte

	// Next's alone.
	last uint16 // index of the next available entry, free-running

	lastAvail atomic.Uint32 // a copy of last for EnableNotify
	inFlight  atomic.Int32

	mu        sync.Mutex // guards the device's side of the used ring
	usedIdx   uint16     // free-running
	signalled uint16     // usedIdx at the last NeedInterrupt
	flags     uint16     // used.flags
	fence     uint32
}

// New checks the configuration against guest memory and returns the queue. The error
// wraps ErrGuest: addresses and size are the guest's choice.
func New(mem *guestmem.Memory, c Config) (*Queue, error) {
	if c.Size == 0 || c.Size > MaxSize || c.Size&(c.Size-1) != 0 {
		return nil, fmt.Errorf("virtqueue of %d descriptors, not a power of two: %w", c.Size, ErrGuest)
	}
	q := &Queue{mem: mem, size: c.Size, eventIdx: c.EventIdx, indirect: c.Indirect}
	n := uint64(c.Size)
	for _, part := range []struct {
		name        string
		dst         *[]byte
		gpa, length uint64
		align       uint64
	}{
		{"descriptor table", &q.desc, c.Desc, n * descSize, 16},
		{"available ring", &q.avail, c.Avail, ringStart + n*2 + 2, 2},
		{"used ring", &q.used, c.Used, ringStart + n*elemSize + 2, 4},
	} {
		if part.gpa%part.align != 0 {
			return nil, fmt.Errorf("virtqueue %s at %#x is not aligned to %d: %w", part.name, part.gpa, part.align, ErrGuest)
		}
		b, err := mem.Slice(part.gpa, part.length)
		if err != nil {
			return nil, fmt.Errorf("virtqueue %s at %#x, %d bytes: %w: %w", part.name, part.gpa, part.length, err, ErrGuest)
		}
		*part.dst = b
	}
	return q, nil
}

// Rings returns the queue's three parts in guest memory, for a device that the kernel serves. Nobody calls Next then.
func (q *Queue) Rings() (desc, avail, used []byte) { return q.desc, q.avail, q.used }

// Size returns the queue's size in descriptors.
func (q *Queue) Size() uint16 { return q.size }

// Next takes the next available chain into c. It returns false if there is none. After
// an error the queue is not usable any more.
func (q *Queue) Next(c *Chain) (bool, error) {
	idx := load16(q.avail, 2)
	if idx == q.last {
		return false, nil
	}
	if idx-q.last > q.size {
		return false, fmt.Errorf("available index jumped from %d to %d in a queue of %d: %w", q.last, idx, q.size, ErrGuest)
	}
	if q.inFlight.Load() >= int32(q.size) {
		return false, fmt.Errorf("more than %d chains in flight: %w", q.size, ErrGuest)
	}
	head := load16(q.avail, ringStart+2*int(q.last&(q.size-1)))
	if err := q.walk(c, head); err != nil {
		return false, err
	}
	q.last++
	q.lastAvail.Store(uint32(q.last))
	q.inFlight.Add(1)
	return true, nil
}

// Release hands the chain back to the driver. written is how many bytes the device
// stored in the writable buffers. The chain's buffers must not be used afterwards.
func (q *Queue) Release(c *Chain, written uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	off := ringStart + elemSize*int(q.usedIdx&(q.size-1))
	put32(q.used[off:], uint32(c.head))
	put32(q.used[off+4:], written)
	q.usedIdx++
	q.publish()
	q.inFlight.Add(-1)
}

// publish stores flags and index of the used ring.
func (q *Queue) publish() {
	storeWord(q.used, uint32(q.flags)|uint32(q.usedIdx)<<16)
}

// NeedInterrupt reports whether the driver wants an interrupt for what was released
// since the last call (virtio 1.3, 2.7.7).
func (q *Queue) NeedInterrupt() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	from := q.signalled
	q.signalled = q.usedIdx
	if from == q.usedIdx {
		return false
	}
	if !q.eventIdx {
		return load16(q.avail, 0)&flagNoInterrupt == 0
	}
	event := load16(q.avail, ringStart+2*int(q.size))
	return q.usedIdx-event-1 < q.usedIdx-from
}

// DisableNotify tells the driver that it need not ring the doorbell while the device
// looks at the queue anyway. It is a hint.
func (q *Queue) DisableNotify() {
	if q.eventIdx {
		return // avail_event stays behind by itself
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flags = flagNoNotify
	q.publish()
}

// EnableNotify asks for a doorbell at the next chain, and reports whether chains became
// available before the driver could see that: then the device must look again.
func (q *Queue) EnableNotify() bool {
	q.mu.Lock()
	last := uint16(q.lastAvail.Load())
	if q.eventIdx {
		store16(q.used, ringStart+elemSize*int(q.size), last, &q.fence)
	} else {
		q.flags = 0
		q.publish()
	}
	q.mu.Unlock()
	return load16(q.avail, 2) != last
}
