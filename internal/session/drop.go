package session

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// maxDropped bounds the streams that this end has given up and the mux does not know of yet. An agent that sends anything at all
// makes them go.
const maxDropped = 4096

// drop gives a stream up in both directions: the agent reads its end, and whatever it still sends is thrown away and takes no memory.
// Close alone ends one direction; the other would fill a window's worth of memory on each stream that the agent does not close.
func (s *Session) drop(stream *yamux.Stream) {
	if stream == nil {
		return
	}
	stream.SetDeadline(past())
	if err := s.dropped.add(); err != nil {
		s.mux.Close()
		return
	}
	go func() {
		stream.Close() // may block when the guest reads nothing
		s.dropped.closed(stream.StreamID())
	}()
}

// dropped are the streams that were given up. The guard has the mux forget them, as if the agent had reset them.
type dropped struct {
	waiting atomic.Bool // ids is not empty

	mu  sync.Mutex
	n   int      // streams that were given up, with those that are just being closed
	ids []uint32 // of those that are closed
}

func (d *dropped) add() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == maxDropped {
		return fmt.Errorf("the guest's agent ends none of the %d streams that were given up", maxDropped)
	}
	d.n++
	return nil
}

func (d *dropped) closed(id uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = append(d.ids, id)
	d.waiting.Store(true)
}

// frames writes frames that reset the streams to p, as many as it has room for, and returns their length in bytes.
func (d *dropped) frames(p []byte) int {
	if !d.waiting.Load() {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.ids), len(p)/frameHeader)
	for i, id := range d.ids[:n] {
		resetFrame(p[i*frameHeader:], id)
	}
	d.ids = append(d.ids[:0], d.ids[n:]...)
	d.n -= n
	d.waiting.Store(len(d.ids) > 0)
	return n * frameHeader
}
