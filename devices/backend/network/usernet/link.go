package usernet

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// link is the wire between the guest's card and the stack: a queue of the network on one side, a link endpoint of the
// stack on the other.
type link struct {
	mac        tcpip.LinkAddress
	offloads   atomic.Uint32 // network.Offload: what may be left undone in frames to the guest
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	// intercept sees each frame of the guest first, and reports whether the stack is not to have it.
	intercept func(frame []byte) bool

	mu          sync.Mutex // guards what follows
	ready       sync.Cond
	queue       [outQueue]outgoing // a ring of n from first on
	first, n    int
	bytes       int
	interrupted bool
}

// outgoing is a frame on its way to the guest: a packet of the stack, of which it holds a reference, or the frame itself.
type outgoing struct {
	packet *stack.PacketBuffer
	frame  []byte
}

func (o *outgoing) size() int {
	if o.packet != nil {
		return o.packet.Size()
	}
	return len(o.frame)
}

func newLink(mac [6]byte, intercept func([]byte) bool) *link {
	l := &link{mac: tcpip.LinkAddress(mac[:]), intercept: intercept}
	l.ready.L = &l.mu
	return l
}

// Send implements network.Queue: the frame is copied once, and the copy looked at.
func (l *link) Send(pieces [][]byte) error {
	size := -network.HeaderSize
	for _, p := range pieces {
		size += len(p)
	}
	d := l.dispatcher.Load()
	if d == nil || size < network.EthernetSize || size > network.MaxFrame-network.HeaderSize {
		return nil // is lost
	}
	view := buffer.NewViewSize(size)
	frame, skip := view.AsSlice(), network.HeaderSize
	for _, p := range pieces {
		n := min(skip, len(p))
		skip -= n
		frame = frame[copy(frame, p[n:]):]
	}
	frame = view.AsSlice()
	if l.intercept(frame) {
		view.Release()
		return nil
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer packet.DecRef()
	protocol := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:]))
	if l.ParseHeader(packet) {
		(*d).DeliverNetworkPacket(protocol, packet)
	}
	return nil
}

// Receive implements network.Queue.
func (l *link) Receive(frame []byte, wait bool) (int, error) {
	for {
		o, ok, err := l.take(wait)
		if !ok {
			return 0, err
		}
		clear(frame[:network.HeaderSize])
		n := 0
		if o.packet == nil {
			n = network.HeaderSize + copy(frame[network.HeaderSize:], o.frame)
		} else {
			n = l.pack(frame, o.packet)
			o.packet.DecRef()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// pack stores a packet of the stack as a frame, and returns its size, 0 if the guest could not do with it what
// is left to be done.
func (l *link) pack(frame []byte, p *stack.PacketBuffer) int {
	if g := p.GSOOptions; g.Type != stack.GSONone {
		kind := byte(network.GSOTCPv4)
		if g.Type == stack.GSOTCPv6 {
			kind = network.GSOTCPv6
		}
		if !l.segments() || g.Type != stack.GSOTCPv4 && g.Type != stack.GSOTCPv6 {
			return 0
		}
		put := func(at int, v uint16) { binary.LittleEndian.PutUint16(frame[at:], v) }
		if g.NeedsCsum {
			frame[network.HeaderFlags] = network.FlagNeedsCsum
			put(network.HeaderCsumStart, network.EthernetSize+g.L3HdrLen)
			put(network.HeaderCsumOffset, g.CsumOffset)
		}
		if p.Data().Size() > int(g.MSS) {
			frame[network.HeaderGSO] = kind
			put(network.HeaderLen, uint16(p.HeaderSize()))
			put(network.HeaderGSOSize, g.MSS)
		}
	}
	n := network.HeaderSize
	for _, s := range p.AsSlices() {
		if n+len(s) > len(frame) {
			return 0
		}
		n += copy(frame[n:], s)
	}
	return n
}

// take returns the next frame for the guest.
func (l *link) take(wait bool) (outgoing, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.n == 0 {
		if !wait {
			return outgoing{}, false, nil
		}
		if l.interrupted {
			l.interrupted = false
			return outgoing{}, false, network.ErrInterrupted
		}
		l.ready.Wait()
	}
	o := l.queue[l.first]
	l.queue[l.first] = outgoing{}
	l.first = (l.first + 1) % outQueue
	l.n--
	l.bytes -= o.size()
	return o, true, nil
}

// put queues a frame for the guest, if there is room.
func (l *link) put(o outgoing) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == outQueue || l.bytes+o.size() > outBytes {
		return false
	}
	l.queue[(l.first+l.n)%outQueue] = o
	l.n++
	l.bytes += o.size()
	if l.n == 1 {
		l.ready.Signal()
	}
	return true
}

// Interrupt implements network.Queue.
func (l *link) Interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupted = true
	l.ready.Signal()
}

// WritePackets implements stack.LinkWriter. What the queue has no room for is lost.
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	for done, p := range packets.AsSlice() {
		if !l.put(outgoing{packet: p.IncRef()}) {
			p.DecRef()
			return done, &tcpip.ErrNoBufferSpace{}
		}
	}
	return packets.Len(), nil
}

// segments tells whether the guest cuts TCP packets itself.
func (l *link) segments() bool {
	const wanted = uint32(Offloads)
	return l.offloads.Load()&wanted == wanted
}

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.segments() {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// The rest of stack.LinkEndpoint.

func (l *link) MTU() uint32                             { return network.DefaultMTU }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return network.EthernetSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return l.mac }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) IsAttached() bool                        { return l.dispatcher.Load() != nil }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// Capabilities implements stack.LinkEndpoint. Nothing changes a packet on this wire: checksums of what the guest sends
// need not be made.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(p *stack.PacketBuffer) {
	header.Ethernet(p.LinkHeader().Push(network.EthernetSize)).Encode(&header.EthernetFields{
		SrcAddr: p.EgressRoute.LocalLinkAddress, DstAddr: p.EgressRoute.RemoteLinkAddress, Type: p.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (l *link) ParseHeader(p *stack.PacketBuffer) bool {
	_, ok := p.LinkHeader().Consume(network.EthernetSize)
	return ok
}
