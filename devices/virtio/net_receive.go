package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/devices/backend/network"
	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	// netMergeLimit bounds the buffers of one frame. Linux's have room for a small frame at the least, of which
	// the largest takes 44.
	netMergeLimit = 64
	// netBurst is how many frames may arrive before the driver is told, while there are more.
	netBurst = 16
)

// netReceiver moves frames from the network to the guest. It belongs to its queue's goroutine.
type netReceiver struct {
	network network.Queue
	merge   bool // frames may take several buffers
	plain   bool // the driver finishes no checksums

	frame   []byte // the last frame, for which the guest had no room
	size    int    // its bytes, 0 if there is none
	chains  [netMergeLimit]virtq.Chain
	written [netMergeLimit]uint32
	taken   int    // chains that the guest made available and that are not used yet
	room    uint64 // their bytes
}

func newNetReceiver(q network.Queue) netReceiver {
	return netReceiver{network: q, frame: make([]byte, network.MaxFrame)}
}

// begin forgets what was before a reset.
func (r *netReceiver) begin(features uint64) {
	r.merge, r.plain = features&netMerge != 0, features&netGuestCsum == 0
	r.size, r.taken, r.room = 0, 0, 0
}

// serve delivers frames while the guest has buffers and the queue is in use. A frame is taken from the network
// only when there is a buffer.
func (r *netReceiver) serve(q *Queue, inUse func() bool) error {
	for !q.Stopped() && inUse() {
		q.DisableNotify()
		if err := r.deliverAll(q, inUse); err != nil {
			return err
		}
		if !q.EnableNotify() {
			return nil
		}
	}
	return nil
}

// deliverAll returns when the guest has no more buffers, or the queue no more use.
func (r *netReceiver) deliverAll(q *Queue, inUse func() bool) error {
	untold := 0
	for !q.Stopped() && inUse() {
		if ok, err := r.takeBuffers(q); !ok {
			return errors.Join(err, q.Interrupt())
		}
		if r.size == 0 {
			n, err := r.receive(q, &untold)
			if errors.Is(err, network.ErrInterrupted) {
				continue
			}
			if err != nil {
				return errors.Join(err, q.Interrupt())
			}
			r.size = n
			continue // it may need more buffers
		}
		r.deliver(q)
		if untold++; untold < netBurst {
			continue
		}
		untold = 0
		if err := q.Interrupt(); err != nil {
			return err
		}
	}
	return q.Interrupt()
}

// receive waits for a frame, but tells the driver first of those it was not told of.
func (r *netReceiver) receive(q *Queue, untold *int) (int, error) {
	n, err := r.network.Receive(r.frame, *untold == 0)
	if n > 0 || err != nil || *untold == 0 {
		return n, err
	}
	*untold = 0
	if err := q.Interrupt(); err != nil {
		return 0, err
	}
	return r.network.Receive(r.frame, true)
}

// takeBuffers takes buffers until there is one, and room for the frame. It returns false if the guest has too few.
func (r *netReceiver) takeBuffers(q *Queue) (bool, error) {
	for r.taken == 0 || r.merge && r.room < uint64(r.size) {
		if r.taken == netMergeLimit {
			r.size = 0 // a frame that does not fit is lost
			return true, nil
		}
		c := &r.chains[r.taken]
		ok, err := q.Next(c)
		if !ok {
			return false, err
		}
		if c.WritableLen() < network.HeaderSize {
			return false, fmt.Errorf("receive buffer of %d bytes: %w", c.WritableLen(), virtq.ErrGuest)
		}
		r.taken++
		r.room += c.WritableLen()
	}
	return true, nil
}

// deliver puts the frame into the buffers that were taken, and gives those back that it filled.
func (r *netReceiver) deliver(q *Queue) {
	frame := r.frame[:r.size]
	r.size = 0
	if len(frame) < network.MinFrame || uint64(len(frame)) > r.room {
		return // no frame, or one larger than the driver said that it would come
	}
	if r.plain {
		frame[network.HeaderFlags] = 0 // what is set there says that the checksum was seen to be right
	}
	used, rest := 0, len(frame)
	for ; rest > 0; used++ {
		n := min(uint64(rest), r.chains[used].WritableLen())
		r.written[used] = uint32(n)
		rest -= int(n)
	}
	binary.LittleEndian.PutUint16(frame[network.HeaderBuffers:], uint16(used))
	for i := range used {
		n := r.written[i]
		_, _ = r.chains[i].Write(frame[:n]) // has the room
		frame = frame[n:]
		r.room -= r.chains[i].WritableLen()
	}
	q.ReleaseAll(r.chains[:used], r.written[:used])
	r.keep(used)
}

// keep moves the chains behind the first used ones to the front. Chains are exchanged, so that each keeps its room.
func (r *netReceiver) keep(used int) {
	for i := used; i < r.taken; i++ {
		r.chains[i-used], r.chains[i] = r.chains[i], r.chains[i-used]
	}
	r.taken -= used
}
