package agentproto

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Dial connects to an address inside the machine. Before it comes an Attach with its ID and StreamDial,
// which carries what the host sends. The agent answers with an empty Reply, or one with an Error, and
// goes on with what the connection receives. Half-close has its usual meaning on both streams.
//
// Of a network of datagrams each datagram is a frame: see AppendDatagram.
type Dial struct {
	// ID names the connection in its Attach. The host never uses one twice, nor one of a command.
	ID uint64 `json:"id"`
	// Network is one of DialNetworks.
	Network string `json:"network"`
	// Address is what net.Dial takes.
	Address string `json:"address"`
}

// StreamDial is what the host sends on a connection.
const StreamDial Stream = "dial"

// DialNetworks returns what Dial.Network may be, as net.Dial names it.
func DialNetworks() []string {
	return []string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix"}
}

// Datagrams tells whether the network has datagrams.
func (d *Dial) Datagrams() bool {
	return d.Network == "udp" || d.Network == "udp4" || d.Network == "udp6"
}

func (d *Dial) validate() error {
	if !slices.Contains(DialNetworks(), d.Network) {
		return fmt.Errorf("dial: unknown network %q: one of %v", d.Network, DialNetworks())
	}
	if d.Address == "" {
		return errors.New("dial: no address")
	}
	return checkText("address", d.Address)
}

// Listen listens at an address inside the machine until the host closes its end of the stream. The agent answers with
// an empty Reply when it does, or one with an Error.
type Listen struct {
	// ID names the listener. The host never uses one twice.
	ID uint64 `json:"id"`
	// Network is one of DialNetworks that has connections.
	Network string `json:"network"`
	// Address is what net.Listen takes.
	Address string `json:"address"`
}

func (l *Listen) validate() error {
	d := Dial{Network: l.Network, Address: l.Address}
	if d.Datagrams() {
		return fmt.Errorf("listen: network %q has no connections", l.Network)
	}
	return d.validate()
}

// Accept waits for the next connection to a listener, and is then as Dial: an Attach with its ID comes before it.
type Accept struct {
	ID       uint64 `json:"id"`
	Listener uint64 `json:"listener"`
}

func (a *Accept) validate() error { return nil }

// MaxDatagram bounds a datagram, in bytes.
const MaxDatagram = 65535

const datagramHeader = 2

// DatagramRoom is the size of a buffer that any frame fits into.
const DatagramRoom = datagramHeader + MaxDatagram

// AppendDatagram appends a datagram of at most MaxDatagram bytes as a frame: its length (2 bytes, big-endian), then its
// bytes. A frame is written in one Write.
func AppendDatagram(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram)))
	return append(b, datagram...)
}

// ReadDatagram copies the next datagram into p; what does not fit is lost, as with a socket. r has a buffer of
// DatagramRoom: after an error that passes, such as a deadline, the datagram is still there.
func ReadDatagram(r *bufio.Reader, p []byte) (int, error) {
	header, err := r.Peek(datagramHeader)
	if err != nil {
		return 0, err
	}
	size := datagramHeader + int(binary.BigEndian.Uint16(header))
	frame, err := r.Peek(size)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	n := copy(p, frame[datagramHeader:])
	_, err = r.Discard(size)
	return n, err
}
