package network

import "errors"

const (
	// HeaderSize is the size of the header in front of a frame, in bytes.
	HeaderSize = 12
	// EthernetSize is the size of an Ethernet frame's own header, in bytes.
	EthernetSize = 14
	// MaxFrame is the size of the largest frame with its header, in bytes: an IP packet of 64 KiB, and a VLAN tag.
	MaxFrame = HeaderSize + EthernetSize + 4 + 65535
	// MinFrame is the size of the smallest frame that is one.
	MinFrame = HeaderSize + EthernetSize
	// DefaultMTU is Ethernet's, in bytes.
	DefaultMTU = 1500
	// MaxQueues bounds the pairs of queues of a network.
	MaxQueues = 8
)

// Fields of the header (virtio 1.3, 5.1.6), byte offsets and values.
const (
	HeaderFlags      = 0 // 1 byte
	HeaderGSO        = 1 // 1 byte
	HeaderLen        = 2
	HeaderGSOSize    = 4
	HeaderCsumStart  = 6
	HeaderCsumOffset = 8
	HeaderBuffers    = 10

	FlagNeedsCsum = 1
	GSONone       = 0
	GSOTCPv4      = 1
	GSOTCPv6      = 4
)

// Offload is a set of what may be left undone in a frame.
type Offload uint

const (
	Csum Offload = 1 << iota // TCP's and UDP's checksum
	TSO4                     // cutting of TCP over IPv4 to the MTU; with Csum only
	TSO6                     // and over IPv6
	ECN                      // of TCP with congestion notification; with TSO only
)

// ErrInterrupted is returned by Queue.Receive after Queue.Interrupt.
var ErrInterrupted = errors.New("interrupted")

// Network is a network's end at the host. It belongs to one card.
type Network interface {
	// Queues are one or more pairs of directions. The list does not change.
	Queues() []Queue
	// Offloads are what the network finishes of what it is sent, and can leave undone in what it delivers.
	Offloads() Offload
	// SetOffloads says what may be left undone in the frames that Receive returns, until it is said anew. It comes
	// before the first Receive.
	SetOffloads(Offload) error
	// SetActive says that only the first n pairs are in use; 1 until it is said.
	SetActive(n int) error
	// MTU is the largest IP packet in bytes that is not to be cut.
	MTU() int
	// Close ends it. No Send or Receive is under way.
	Close() error
}

// Queue is a pair of directions. Send, Receive and Interrupt may be called at the same time, Send and Receive each by one
// goroutine at a time.
type Queue interface {
	// Send takes a frame, in pieces of guest memory: they may change while they are read, and are not touched after
	// Send has returned. A network may lose frames; it does not wait for long.
	Send(pieces [][]byte) error
	// Receive stores the next frame in frame, of MaxFrame bytes, and returns its size. If there is none it
	// returns 0, or with wait, waits for one.
	Receive(frame []byte, wait bool) (int, error)
	// Interrupt makes the Receive that waits, or else the next one that would, return ErrInterrupted.
	Interrupt()
}
