package virtio

import "encoding/binary"

// Operations (5.10.6).
const (
	vsockRequest       = 1
	vsockResponse      = 2
	vsockRST           = 3
	vsockShutdown      = 4
	vsockRW            = 5
	vsockCreditUpdate  = 6
	vsockCreditRequest = 7
)

// Flags of vsockShutdown (5.10.6.4): what the sender will not do any more.
const (
	vsockNoReceive = 1
	vsockNoSend    = 2
	vsockNeither   = vsockNoReceive | vsockNoSend
)

const (
	vsockHeaderSize = 44
	vsockStream     = 1 // type of socket
	vsockHostCID    = 2
)

// vsockHeader begins each packet (5.10.6). Counts are bytes; credit counts wrap.
type vsockHeader struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	kind, op         uint16
	flags            uint32
	alloc, forwarded uint32 // the sender's buffer, and what it has taken out of it so far
}

func (h *vsockHeader) decode(b *[vsockHeaderSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(b[0:]), le.Uint64(b[8:])
	h.srcPort, h.dstPort = le.Uint32(b[16:]), le.Uint32(b[20:])
	h.length = le.Uint32(b[24:])
	h.kind, h.op = le.Uint16(b[28:]), le.Uint16(b[30:])
	h.flags = le.Uint32(b[32:])
	h.alloc, h.forwarded = le.Uint32(b[36:]), le.Uint32(b[40:])
}

func (h *vsockHeader) encode(b *[vsockHeaderSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.alloc)
	le.PutUint32(b[40:], h.forwarded)
}

// answer makes p the header of a packet without data that goes back to where h came from.
func (h *vsockHeader) answer(op uint16) vsockHeader {
	return vsockHeader{srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort, kind: h.kind, op: op}
}
