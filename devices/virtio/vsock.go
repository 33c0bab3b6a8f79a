package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	vsockClass      = 0x078000
	vsockFeature    = 1 << 0 // stream sockets
	vsockConfigSize = 8
	vsockQueueSize  = 128
	vsockEvents     = 8 // the size of the event queue; nothing happens that it would tell

	vsockRXQueue = 0
	vsockTXQueue = 1

	// vsockConns bounds the connections of a guest. Each has up to 192 KiB of buffers.
	vsockConns = 512
	// vsockPort is the first of the host's ports for connections that the host opens.
	vsockPort = 1 << 30

	// MinCID and MaxCID bound a guest's context ID (5.10.4).
	MinCID = 3
	MaxCID = math.MaxUint32 - 1
)

// ErrVsock is wrapped by errors of Vsock.Connect.
var ErrVsock = errors.New("vsock")

// Vsock is a virtio socket device (5.10) for stream sockets between the guest and the host, without any
// kernel support on the host. Its methods may be called concurrently.
//
// The guest reaches nobody but the host (CID 2). Buffers and connections are bounded; what is
// beyond that is refused with a reset.
type Vsock struct {
	cid  uint64
	dial func(port uint32) (VsockStream, error)

	rx       vsockRX
	tx       virtq.Chain // of the guest's packets' goroutine, as what follows
	packet   vsockHeader
	txHeader [vsockHeaderSize]byte

	mu       sync.Mutex
	conns    map[vsockPorts]*vsockConn
	dials    int // under way, also for connections that have ended meanwhile
	active   bool
	epoch    uint32 // counts activations: what belongs to an earlier driver is not told to the next
	lastPort uint32
	workers  sync.WaitGroup
	waiter   sync.WaitGroup // for a reset to begin
}

// NewVsock makes a device with the guest's context ID, MinCID to MaxCID. dial connects to what
// stands for a port of the host; an error of its refuses the guest's connection.
func NewVsock(cid uint64, dial func(port uint32) (VsockStream, error)) *Vsock {
	v := &Vsock{cid: cid, dial: dial, conns: make(map[vsockPorts]*vsockConn), lastPort: vsockPort}
	v.rx.changed.L = &v.rx.mu
	return v
}

// Info implements Device.
func (v *Vsock) Info() Info {
	return Info{
		Type: TypeVsock, Class: vsockClass, Features: vsockFeature, ConfigSize: vsockConfigSize,
		QueueSizes: []uint16{vsockQueueSize, vsockQueueSize, vsockEvents}, Vectors: 2,
	}
}

// ReadConfig implements Device.
func (v *Vsock) ReadConfig(off int, p []byte) {
	var b [vsockConfigSize]byte
	binary.LittleEndian.PutUint64(b[:], v.cid)
	copy(p, b[off:])
}

// WriteConfig implements Device; the configuration can't be written.
func (*Vsock) WriteConfig(int, []byte) {}

// Activate implements Device.
func (v *Vsock) Activate(a *Activation) error {
	v.mu.Lock()
	v.epoch++
	v.rx.attach(a.Queues[vsockRXQueue], v.epoch)
	v.active = true
	v.mu.Unlock()
	// Who waits for the guest's buffers, its packets' goroutine too, must not hold a reset up.
	v.waiter.Go(func() {
		<-a.Done
		v.rx.detach()
	})
	return nil
}

// Reset implements Device. All connections end.
func (v *Vsock) Reset() {
	v.waiter.Wait() // it must not detach the next driver's queue
	v.mu.Lock()
	v.active = false
	var all []*vsockConn
	for _, c := range v.conns {
		all = append(all, c)
	}
	v.mu.Unlock()
	for _, c := range all {
		c.end(false)
	}
}

// Close waits until nothing runs any more. The device was reset.
func (v *Vsock) Close() error {
	v.workers.Wait()
	return nil
}

// Serve implements Device.
func (v *Vsock) Serve(q *Queue) error {
	switch q.Index() {
	case vsockRXQueue:
		v.rx.wake()
	case vsockTXQueue:
		return q.Drain(&v.tx, v.take)
	}
	return nil
}

// take takes one packet of the guest.
func (v *Vsock) take(chain *virtq.Chain) (uint32, error) {
	if n, _ := chain.Read(v.txHeader[:]); n < vsockHeaderSize {
		return 0, nil // not a packet
	}
	h := &v.packet
	h.decode(&v.txHeader)
	if h.srcCID != v.cid {
		return 0, nil // from somebody else; who would want an answer
	}
	if h.dstCID != vsockHostCID || h.kind != vsockStream {
		v.refuse(h)
		return 0, nil
	}
	c := v.find(vsockPorts{guest: h.srcPort, host: h.dstPort})
	switch {
	case h.op == vsockRequest && c == nil:
		v.accept(h)
	case c == nil:
		v.refuse(h)
	case !c.handle(h, chain):
		c.end(true)
	}
	return 0, nil
}

// handle takes a packet of a connection. It reports false for one that makes no sense.
func (c *vsockConn) handle(h *vsockHeader, chain *virtq.Chain) bool {
	c.heard(h)
	switch h.op {
	case vsockResponse:
		return c.agreed()
	case vsockRST:
		c.end(false)
	case vsockShutdown:
		c.shutByGuest(h.flags)
	case vsockRW:
		return c.receive(chain, h.length)
	case vsockCreditUpdate:
	case vsockCreditRequest:
		c.tell(vsockCreditUpdate, 0)
	default:
		return false
	}
	return true
}

// refuse answers a packet that belongs to no connection, on the goroutine of the guest's packets.
func (v *Vsock) refuse(h *vsockHeader) {
	if h.op != vsockRST {
		v.rx.reply(vsockReply{header: h.answer(vsockRST), epoch: v.epoch})
	}
}

func (v *Vsock) find(ports vsockPorts) *vsockConn {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conns[ports]
}

func (v *Vsock) forget(c *vsockConn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conns[c.ports] == c {
		delete(v.conns, c.ports)
	}
}

// accept begins a connection that the guest asks for.
func (v *Vsock) accept(h *vsockHeader) {
	c := newVsockConn(v, vsockPorts{guest: h.srcPort, host: h.dstPort})
	c.heard(h)
	if !v.add(c) {
		v.refuse(h)
	}
}

// add keeps c and has it dial, unless there are too many.
func (v *Vsock) add(c *vsockConn) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.active || len(v.conns) >= vsockConns || v.dials >= vsockConns {
		return false
	}
	v.conns[c.ports] = c
	v.dials++
	v.workers.Go(c.dialHost)
	return true
}

// dialHost connects a connection that the guest asked for, and carries its data.
func (c *vsockConn) dialHost() {
	s, err := c.dev.dial(c.ports.host)
	c.dev.dialled()
	if err != nil {
		c.end(true)
		return
	}
	if !c.use(s, true) {
		return
	}
	c.tell(vsockResponse, 0)
	c.carry()
}

func (v *Vsock) dialled() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dials--
}

// Connect opens a connection to a port of the guest for s, which is the device's from then on. opened is
// called, with the host's port, when the guest has accepted; where it refuses, or does not
// answer in time, s is closed. An error leaves s to the caller.
func (v *Vsock) Connect(port uint32, s VsockStream, opened func(hostPort uint32) error) error {
	c, err := v.reach(port, s)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.limit = time.AfterFunc(vsockLimit, func() { c.end(true) })
	c.mu.Unlock()
	go func() {
		defer v.workers.Done()
		c.tell(vsockRequest, 0)
		if !c.awaitOpen() {
			return
		}
		if opened(c.ports.host) != nil {
			c.end(true)
			return
		}
		c.carry()
	}()
	return nil
}

// reach makes a connection with a free port of the host. One of the workers is the caller's to end.
func (v *Vsock) reach(port uint32, s VsockStream) (*vsockConn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.active {
		return nil, fmt.Errorf("%w: the guest has no driver for it yet", ErrVsock)
	}
	if len(v.conns) >= vsockConns {
		return nil, fmt.Errorf("%w: more than %d connections", ErrVsock, vsockConns)
	}
	ports := vsockPorts{guest: port}
	for { // ends: there are fewer connections than ports
		v.lastPort = max(v.lastPort+1, vsockPort)
		ports.host = v.lastPort
		if v.conns[ports] == nil {
			break
		}
	}
	c := newVsockConn(v, ports)
	c.stream = s
	v.conns[ports] = c
	v.workers.Add(1)
	return c, nil
}

// agreed takes the guest's consent to a connection that the host asked for.
func (c *vsockConn) agreed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open || c.stream == nil {
		return false
	}
	c.open = true
	if c.limit != nil {
		c.limit.Stop()
		c.limit = nil
	}
	c.changed.Broadcast()
	return true
}

func (c *vsockConn) awaitOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.open && !c.ended {
		c.changed.Wait()
	}
	return !c.ended
}
