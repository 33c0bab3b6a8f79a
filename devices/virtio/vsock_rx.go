package virtio

import (
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/devices/virtq"
)

// vsockReplies bounds the packets without data that wait for the guest's buffers. While there
// are so many, the guest's own packets are not looked at: it has to take some first, as
// 5.10.6.1.1 allows.
const vsockReplies = 256

// vsockRX sends packets to the guest. Its lock is never asked for with a connection's held.
type vsockRX struct {
	mu      sync.Mutex
	changed sync.Cond // buffers or replies have changed, a connection ended, or all did
	q       *Queue    // nil while the device is not active
	epoch   uint32    // of the driver whose queue it is
	chain   virtq.Chain
	header  [vsockHeaderSize]byte

	replies [vsockReplies]vsockReply
	first   int
	count   int
}

// vsockReply is a packet without data.
type vsockReply struct {
	header vsockHeader
	conn   *vsockConn // whose credit goes along; nil without a connection
	epoch  uint32     // of the driver that it is for
}

func (r *vsockRX) attach(q *Queue, epoch uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q, r.epoch, r.first, r.count = q, epoch, 0, 0
}

// detach takes the queue away. No call touches it after that, and none waits.
func (r *vsockRX) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q = nil
	clear(r.replies[:])
	r.changed.Broadcast()
}

// wake lets those who wait look again.
func (r *vsockRX) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q != nil {
		r.flush()
	}
	r.changed.Broadcast()
}

// reply sends a packet without data, or has it wait. It waits itself while too many do. A packet for a driver that is
// no more is dropped.
func (r *vsockRX) reply(p vsockReply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.q != nil && r.epoch == p.epoch && r.count == vsockReplies {
		r.changed.Wait()
	}
	if r.q == nil || r.epoch != p.epoch {
		return
	}
	r.replies[(r.first+r.count)%vsockReplies] = p
	r.count++
	r.flush()
}

// flush sends replies as the guest has buffers for them. r.q is not nil before.
func (r *vsockRX) flush() {
	for r.count > 0 && r.take() {
		p := &r.replies[r.first]
		r.first, r.count = (r.first+1)%vsockReplies, r.count-1
		_, err := r.put(p.conn, &p.header, nil)
		p.conn = nil
		if err != nil {
			r.broken(err)
			return
		}
		if r.count == vsockReplies-1 {
			r.changed.Broadcast()
		}
	}
	if r.q == nil {
		return
	}
	if err := r.q.Interrupt(); err != nil {
		r.broken(err)
	}
}

// take takes one of the guest's buffers.
func (r *vsockRX) take() bool {
	ok, err := next(r.q, &r.chain)
	if err != nil {
		r.broken(err)
		return false
	}
	return ok
}

// put fills the buffer that was taken with a packet, and returns how much of p is in it.
func (r *vsockRX) put(c *vsockConn, h *vsockHeader, p []byte) (int, error) {
	room := r.chain.WritableLen()
	if room < vsockHeaderSize || room == vsockHeaderSize && len(p) > 0 {
		return 0, fmt.Errorf("buffer of %d bytes for a packet: %w", room, virtq.ErrGuest)
	}
	p = p[:min(uint64(len(p)), room-vsockHeaderSize)]
	h.length = uint32(len(p))
	if c != nil {
		h.alloc, h.forwarded = vsockBuffer, c.credit()
	}
	h.encode(&r.header)
	_, _ = r.chain.Write(r.header[:]) // there is room for both
	_, _ = r.chain.Write(p)
	r.q.Release(&r.chain, r.chain.Written())
	return len(p), nil
}

// send sends data of c, for which the guest has given credit, behind all replies. It reports false
// if the connection or the device ended first.
func (r *vsockRX) send(c *vsockConn, p []byte) bool {
	h := c.header(vsockRW)
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 {
		if r.q == nil || c.deaf.Load() {
			return false
		}
		if r.count > 0 || !r.take() {
			if !r.wait() {
				return false
			}
			continue
		}
		n, err := r.put(c, &h, p)
		if err != nil {
			r.broken(err)
			return false
		}
		p = p[n:]
	}
	return r.q.Interrupt() == nil
}

// wait tells the guest what was sent and waits for a change.
func (r *vsockRX) wait() bool {
	if r.q == nil {
		return false
	}
	if err := r.q.Interrupt(); err != nil {
		r.broken(err)
		return false
	}
	r.changed.Wait()
	return true
}

// broken ends the queue that the guest broke.
func (r *vsockRX) broken(err error) {
	r.q.t.Fail(fmt.Errorf("queue %d: %w", r.q.index, err))
	r.q = nil
	r.changed.Broadcast()
}
