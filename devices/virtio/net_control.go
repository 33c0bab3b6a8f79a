package virtio

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/devices/virtq"
)

// Commands of the control queue (5.1.6.5).
const (
	netControlMultiple = 4 // class
	netPairsSet        = 0 // command

	netAck    = 0
	netRefuse = 1
)

// netControlQueue belongs to the control queue's goroutine.
type netControlQueue struct{ chain virtq.Chain }

func (d *Net) serveControl(q *Queue) error {
	return q.Drain(&d.control.chain, func(c *virtq.Chain) (uint32, error) {
		ack := [1]byte{netRefuse}
		if d.command(c) {
			ack[0] = netAck
		}
		_, _ = c.Write(ack[:]) // a driver that left no room does not want to know
		return c.Written(), nil
	})
}

// command does what a chain asks for and reports whether it did.
func (d *Net) command(c *virtq.Chain) bool {
	var b [4]byte // class, command, number of pairs
	if n, _ := c.Read(b[:]); n < len(b) || b[0] != netControlMultiple || b[1] != netPairsSet {
		return false
	}
	pairs := int(binary.LittleEndian.Uint16(b[2:]))
	if pairs < 1 || pairs > len(d.pairs) || d.features&netMultiple == 0 {
		return false
	}
	return d.setActive(pairs) == nil
}
