package virtio

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	// vsockBuffer is how much a guest may send on a connection before the host has taken it, in
	// bytes; vsockUpdate is how much the host takes before the guest is told.
	vsockBuffer = 128 << 10
	vsockUpdate = vsockBuffer / 4
	// vsockChunk is how much is read from the host at once.
	vsockChunk = 64 << 10
	// vsockLimit is how long the guest may take to answer a request and to agree to an end.
	vsockLimit = 10 * time.Second
)

// VsockStream is the host's end of a connection: a UNIX or TCP socket.
type VsockStream interface {
	io.ReadWriteCloser
	CloseRead() error
	CloseWrite() error
}

// vsockPorts identifies a connection of the guest with the host.
type vsockPorts struct{ guest, host uint32 }

// vsockConn is one connection. Two goroutines carry its data: toHost from the ring, which
// the guest's packets fill, to the stream, and toGuest from the stream into the guest's buffers.
type vsockConn struct {
	dev   *Vsock
	ports vsockPorts
	epoch uint32 // of the driver that has it

	taken   atomic.Uint32 // bytes that have left the ring, wraps
	told    atomic.Uint32 // what of them the guest knows
	telling atomic.Bool   // a credit update is under way
	deaf    atomic.Bool   // the guest takes no more data, or the connection has ended

	mu       sync.Mutex
	changed  sync.Cond
	stream   VsockStream // nil until there is one
	open     bool        // both ends have agreed
	ended    bool
	ring     []byte // made when data comes
	first    int
	count    int
	discard  bool   // the host takes no more
	drained  bool   // toHost has ended
	byGuest  uint32 // flags of the guest's shutdowns
	byHost   uint32 // and of ours
	limit    *time.Timer
	alloc    uint32 // the guest's buffer
	received uint32 // what it has taken out of that, wraps
	sent     uint32 // what was sent, wraps
	asked    bool   // the guest was asked for credit since it gave some
}

func newVsockConn(v *Vsock, ports vsockPorts) *vsockConn {
	c := &vsockConn{dev: v, ports: ports, epoch: v.epoch}
	c.changed.L = &c.mu
	return c
}

// header makes the header of a packet to the guest.
func (c *vsockConn) header(op uint16) vsockHeader {
	return vsockHeader{srcCID: vsockHostCID, dstCID: c.dev.cid, srcPort: c.ports.host, dstPort: c.ports.guest, kind: vsockStream, op: op}
}

// tell sends a packet without data.
func (c *vsockConn) tell(op uint16, flags uint32) {
	h := c.header(op)
	h.flags = flags
	c.dev.rx.reply(vsockReply{h, c, c.epoch})
}

// credit returns what the guest is told now of the bytes taken. Called with the lock of the packets to the
// guest, so that counts arrive in order.
func (c *vsockConn) credit() uint32 {
	c.telling.Store(false)
	n := c.taken.Load()
	c.told.Store(n)
	return n
}

// took notes that n bytes have left the ring.
func (c *vsockConn) took(n int) {
	if c.taken.Add(uint32(n))-c.told.Load() >= vsockUpdate && c.telling.CompareAndSwap(false, true) {
		c.tell(vsockCreditUpdate, 0)
	}
}

// heard takes the credit that comes with each packet.
func (c *vsockConn) heard(h *vsockHeader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alloc, c.received, c.asked = h.alloc, h.forwarded, false
	c.changed.Broadcast()
}

// receive puts n bytes of a packet into the ring. It reports false for what the guest must not send.
func (c *vsockConn) receive(chain *virtq.Chain, n uint32) bool {
	c.mu.Lock()
	if !c.open || c.byGuest&vsockNoSend != 0 || uint64(n) > chain.Unread() || int(min(n, vsockBuffer+1)) > vsockBuffer-c.count {
		c.mu.Unlock()
		return false
	}
	if c.discard {
		c.mu.Unlock()
		c.took(int(n))
		return true
	}
	defer c.mu.Unlock()
	if c.ring == nil {
		c.ring = make([]byte, vsockBuffer)
	}
	for left := int(n); left > 0; {
		at := (c.first + c.count) % vsockBuffer
		k, _ := chain.Read(c.ring[at:min(at+left, vsockBuffer)]) // it has as much
		c.count, left = c.count+k, left-k
	}
	c.changed.Broadcast()
	return true
}

// toHost carries data to the stream until the guest sends no more or the host takes no more.
func (c *vsockConn) toHost() {
	for {
		part := c.ready()
		if len(part) == 0 {
			break
		}
		n, err := c.stream.Write(part)
		c.mu.Lock()
		c.first, c.count = (c.first+n)%vsockBuffer, c.count-n
		if err != nil {
			n += c.count
			c.count, c.discard = 0, true
		}
		c.mu.Unlock()
		c.took(n)
		if err != nil {
			c.shutdown(vsockNoReceive)
			break
		}
	}
	_ = c.stream.CloseWrite() // a stream that is gone has nobody to tell
	c.mu.Lock()
	c.drained = true
	over := c.byGuest == vsockNeither
	c.mu.Unlock()
	if over {
		c.end(true)
	}
}

// ready waits for data and returns a piece of the ring; nothing at the end.
func (c *vsockConn) ready() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.count == 0 && c.byGuest&vsockNoSend == 0 && !c.ended {
		c.changed.Wait()
	}
	if c.ended {
		return nil
	}
	return c.ring[c.first:min(c.first+c.count, len(c.ring))]
}

// toGuest carries data from the stream until either end wants no more.
func (c *vsockConn) toGuest() {
	buf := make([]byte, vsockChunk)
	for {
		n, err := c.stream.Read(buf)
		for part := buf[:n]; len(part) > 0; {
			room := c.reserve(len(part))
			if room == 0 || !c.dev.rx.send(c, part[:room]) {
				return
			}
			part = part[room:]
		}
		if err != nil {
			c.shutdown(vsockNoSend)
			return
		}
	}
}

// reserve waits for credit and returns how many of n bytes may be sent; 0 if none ever.
func (c *vsockConn) reserve(n int) int {
	for {
		room, ask := c.room(n)
		if !ask {
			return room
		}
		c.tell(vsockCreditRequest, 0)
	}
}

// room waits for credit, once the guest was asked for it.
func (c *vsockConn) room(n int) (room int, ask bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && c.byGuest&vsockNoReceive == 0 {
		// A guest that lies about what it has received gets nothing.
		if inFlight := c.sent - c.received; inFlight < c.alloc {
			room = int(min(uint32(n), c.alloc-inFlight))
			c.sent += uint32(room)
			return room, false
		}
		if !c.asked {
			c.asked = true
			return 0, true
		}
		c.changed.Wait()
	}
	return 0, false
}

// shutdown tells the guest what the host will not do any more. Once that is all, the guest has to agree soon.
func (c *vsockConn) shutdown(flags uint32) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.byHost |= flags
	flags = c.byHost
	if flags == vsockNeither && c.limit == nil {
		c.limit = time.AfterFunc(vsockLimit, func() { c.end(true) })
	}
	c.mu.Unlock()
	c.tell(vsockShutdown, flags)
}

// shutByGuest takes what the guest will not do any more.
func (c *vsockConn) shutByGuest(flags uint32) {
	c.mu.Lock()
	c.byGuest |= flags & vsockNeither
	if c.byGuest&vsockNoReceive != 0 {
		c.deaf.Store(true)
	}
	over := c.byGuest == vsockNeither && (c.drained || !c.open)
	stream := c.stream
	c.changed.Broadcast()
	c.mu.Unlock()
	if c.deaf.Load() && stream != nil {
		_ = stream.CloseRead() // a stream that is gone has nobody to tell
	}
	c.dev.rx.wake()
	if over {
		c.end(true)
	}
}

// end ends the connection; reset tells the guest. Further calls do nothing.
func (c *vsockConn) end(reset bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	c.deaf.Store(true)
	if c.limit != nil {
		c.limit.Stop()
	}
	stream := c.stream
	c.changed.Broadcast()
	c.mu.Unlock()
	if stream != nil {
		stream.Close()
	}
	c.dev.forget(c)
	c.dev.rx.wake()
	if reset {
		c.dev.rx.reply(vsockReply{header: c.header(vsockRST), epoch: c.epoch})
	}
}

// use makes s the host's end, and reports false if the connection has ended meanwhile.
func (c *vsockConn) use(s VsockStream, open bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		s.Close()
		return false
	}
	c.stream, c.open = s, open
	return true
}

// carry carries data both ways.
func (c *vsockConn) carry() {
	c.dev.workers.Go(c.toHost)
	c.toGuest()
}
