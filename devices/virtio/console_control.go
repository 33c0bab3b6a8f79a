package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/stile-vmm/stile/devices/virtq"
)

// MaxPortName bounds the name of a port, in bytes.
const MaxPortName = 64

// Control events (5.3.6.2).
const (
	eventDeviceReady = 0
	eventPortAdd     = 1
	eventPortReady   = 3
	eventConsolePort = 4
	eventResize      = 5
	eventPortOpen    = 6
	eventPortName    = 7

	controlSize = 8 // le32 port, le16 event, le16 value
)

// What a port has to tell the guest, lowest bit first. Bits instead of a list of
// messages: however often the guest asks, there is nothing to pile up.
const (
	sendAdd = 1 << iota
	sendConsole
	sendName
	sendOpen
	sendResize
)

// control is the control queues' state. The console's lock guards it.
type control struct {
	in      *Queue // to the guest; nil without the multiport feature
	ready   bool   // the guest took port 0 as a console
	pending []uint8
	chain   virtq.Chain
	msg     [controlSize + MaxPortName]byte

	out    virtq.Chain // of the goroutine that serves the guest's messages, unguarded
	outMsg [controlSize]byte
}

// serveControl takes the guest's messages.
func (c *Console) serveControl(q *Queue) error {
	err := q.Drain(&c.control.out, func(chain *virtq.Chain) (uint32, error) {
		if n, _ := chain.Read(c.control.outMsg[:]); n == controlSize {
			m := c.control.outMsg[:]
			c.message(binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint16(m[4:]), binary.LittleEndian.Uint16(m[6:]))
		}
		return 0, nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// message handles one message of the guest. Those that make no sense are ignored.
func (c *Console) message(id uint32, event, value uint16) {
	if event == eventDeviceReady {
		if value == 1 {
			c.mu.Lock()
			defer c.mu.Unlock()
			for i := range c.control.pending {
				c.control.pending[i] |= sendAdd
			}
		}
		return
	}
	if uint64(id) >= uint64(len(c.ports)) {
		return
	}
	switch {
	case event == eventPortReady && value == 1:
		c.portReady(int(id))
	case event == eventPortOpen && id > 0:
		c.ports[id].guestOpened(value == 1)
	}
}

func (c *Console) portReady(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id > 0 {
		c.control.pending[id] |= sendName | sendOpen
		return
	}
	c.control.ready = true
	c.control.pending[0] |= sendConsole
	if c.cols != 0 && c.rows != 0 {
		c.control.pending[0] |= sendResize
	}
}

// tellOpen makes the guest learn whether the host has the port open.
func (c *Console) tellOpen(port int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.control.in == nil {
		return nil
	}
	c.control.pending[port] |= sendOpen
	return c.flush()
}

// flush sends what is pending, as far as the guest has buffers. c.mu is held.
func (c *Console) flush() error {
	q := c.control.in
	if q == nil {
		return nil
	}
	defer q.Interrupt()
	for port := range c.control.pending {
		for c.control.pending[port] != 0 {
			ok, err := next(q, &c.control.chain)
			if err != nil {
				c.transport.Fail(err)
			}
			if !ok {
				return err // the guest's next doorbell comes back here
			}
			bit := c.control.pending[port] & -c.control.pending[port]
			c.control.pending[port] &^= bit
			if _, err := c.control.chain.Write(c.encode(port, bit)); err != nil {
				err = fmt.Errorf("control buffer of %d bytes: %w", c.control.chain.WritableLen(), virtq.ErrGuest)
				c.transport.Fail(err)
				return err
			}
			q.Release(&c.control.chain, c.control.chain.Written())
		}
	}
	return nil
}

// next takes a chain, or arms the doorbell where there is none.
func next(q *Queue, chain *virtq.Chain) (bool, error) {
	for {
		ok, err := q.Next(chain)
		if ok || err != nil {
			return ok, err
		}
		if !q.EnableNotify() {
			return false, nil
		}
	}
}

func (c *Console) encode(port int, bit uint8) []byte {
	m := c.control.msg[:controlSize]
	event, value := uint16(0), uint16(1)
	switch bit {
	case sendAdd:
		event = eventPortAdd
	case sendConsole:
		event = eventConsolePort
	case sendName:
		event = eventPortName
		m = append(m, c.ports[port].name...)
	case sendOpen:
		event = eventPortOpen
		if !c.ports[port].open() {
			value = 0
		}
	case sendResize:
		event = eventResize
		m = binary.LittleEndian.AppendUint16(m, c.cols)
		m = binary.LittleEndian.AppendUint16(m, c.rows)
	}
	binary.LittleEndian.PutUint32(m, uint32(port))
	binary.LittleEndian.PutUint16(m[4:], event)
	binary.LittleEndian.PutUint16(m[6:], value)
	return m
}
