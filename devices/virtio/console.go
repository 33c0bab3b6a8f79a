package virtio

import (
	"encoding/binary"
	"io"
	"os"
	"sync"

	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	consoleClass      = 0x078000
	consoleSize       = 1 << 0 // features: the configuration has the terminal's size
	consoleMultiport  = 1 << 1
	consoleConfigSize = 12

	// Queues: port 0's pair, the control pair, then a pair for each further port (5.3.2).
	// Directions are the host's here: in goes to the guest.
	consoleControlIn  = 2
	consoleControlOut = 3

	// Linux puts a page into each free descriptor of the queues towards the guest.
	consoleInputSize = 16
	portQueueSize    = 64
	controlQueueSize = 16

	// consoleChunk bounds one write to the host's writer, in bytes.
	consoleChunk = 64 << 10
)

// ConsoleOptions says what is behind a console.
type ConsoleOptions struct {
	Output     io.Writer // what the guest writes to port 0; nil drops it
	Ports      []string  // the names of ports 1 and up, at most MaxPortName bytes each
	Cols, Rows uint16    // the terminal's size in characters, if known
}

// Console is a virtio console (5.3): port 0 is the guest's console (hvc0), further ports
// are byte streams between a guest program and the host. Its methods may be called
// concurrently.
type Console struct {
	output io.Writer
	ports  []*Port // by number

	out virtq.Chain // of port 0's output goroutine

	mu        sync.Mutex // guards what follows
	transport *Transport // nil while the device is not active
	cols      uint16
	rows      uint16
	control   control
}

// NewConsole makes a console. Output errors are ignored: the guest cannot be told.
func NewConsole(o ConsoleOptions) *Console {
	c := &Console{output: o.Output, cols: o.Cols, rows: o.Rows}
	if c.output == nil {
		c.output = io.Discard
	}
	c.ports = append(c.ports, newPort(c, 0, ""))
	for i, name := range o.Ports {
		c.ports = append(c.ports, newPort(c, i+1, name))
	}
	c.control.pending = make([]uint8, len(c.ports))
	return c
}

// Input returns a writer to the guest's console. Writes block while the guest does not
// read.
func (c *Console) Input() io.Writer { return c.ports[0] }

// Port returns the port of that name, nil if there is none.
func (c *Console) Port(name string) *Port {
	for _, p := range c.ports[1:] {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Resize tells the guest the terminal's size in characters.
func (c *Console) Resize(cols, rows uint16) error {
	set := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cols, c.rows = cols, rows
	}
	c.mu.Lock()
	t := c.transport
	c.mu.Unlock()
	if t == nil {
		set()
		return nil
	}
	if err := t.ChangeConfig(set); err != nil { // without c.mu, which who reads the configuration asks for last
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.control.in == nil {
		return nil
	}
	if c.control.ready {
		c.control.pending[0] |= sendResize
	}
	return c.flush()
}

// Close ends all streams at the host, without a word to the guest: waiting reads and
// writes, also those to Input, return os.ErrClosed. For the end of the VM.
func (c *Console) Close() error {
	for _, p := range c.ports {
		p.isOpen.Store(false)
		p.in.end(os.ErrClosed)
		p.out.end(os.ErrClosed)
	}
	return nil
}

// Info implements Device.
func (c *Console) Info() Info {
	info := Info{
		Type: TypeConsole, Class: consoleClass, ConfigSize: consoleConfigSize,
		Features:   consoleSize | consoleMultiport,
		QueueSizes: []uint16{consoleInputSize, portQueueSize, controlQueueSize, controlQueueSize},
		Vectors:    2, // Linux looks at six queues as quickly as at one
	}
	for range c.ports[1:] {
		info.QueueSizes = append(info.QueueSizes, portQueueSize, portQueueSize)
	}
	return info
}

// ReadConfig implements Device.
func (c *Console) ReadConfig(off int, p []byte) {
	var b [consoleConfigSize]byte
	c.mu.Lock()
	binary.LittleEndian.PutUint16(b[0:], c.cols)
	binary.LittleEndian.PutUint16(b[2:], c.rows)
	c.mu.Unlock()
	binary.LittleEndian.PutUint32(b[4:], uint32(len(c.ports)))
	copy(p, b[off:])
}

// WriteConfig implements Device; the emergency write feature is not offered.
func (c *Console) WriteConfig(int, []byte) {}

// Activate implements Device.
func (c *Console) Activate(a *Activation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transport = a.Transport
	multiport := a.Features&consoleMultiport != 0
	for _, p := range c.ports {
		in, out := portQueues(p.number)
		if p.number > 0 && !multiport {
			break
		}
		p.activate(a.Queues[in], a.Queues[out])
	}
	if multiport {
		c.control.in = a.Queues[consoleControlIn]
	}
	return nil
}

// portQueues returns the indices of a port's queues: to the guest, and from it.
func portQueues(port int) (in, out int) {
	if port == 0 {
		return 0, 1
	}
	return 2 + 2*port, 3 + 2*port
}

// Serve implements Device.
func (c *Console) Serve(q *Queue) error {
	switch i := q.Index(); {
	case i == 1:
		return q.Drain(&c.out, c.print)
	case i == consoleControlIn:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.flush()
	case i == consoleControlOut:
		return c.serveControl(q)
	case i == 0:
		c.ports[0].in.wake()
	case i%2 == 0:
		c.ports[(i-2)/2].in.wake()
	default:
		c.ports[(i-2)/2].out.wake()
	}
	return nil
}

// print writes a chain of port 0 to the host, in pieces between which a reset gets its turn.
func (c *Console) print(chain *virtq.Chain) (uint32, error) {
	q := c.ports[0].out.queue()
	for _, seg := range chain.Readable() {
		for len(seg) > 0 && q != nil && !q.Stopped() {
			n := min(len(seg), consoleChunk)
			_, _ = c.output.Write(seg[:n]) // the guest cannot be told
			seg = seg[n:]
		}
	}
	return 0, nil
}

// Reset implements Device.
func (c *Console) Reset() {
	c.mu.Lock()
	c.transport = nil
	c.control.in, c.control.ready = nil, false
	clear(c.control.pending)
	c.mu.Unlock()
	for _, p := range c.ports {
		p.deactivate()
	}
}
