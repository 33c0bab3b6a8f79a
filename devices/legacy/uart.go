package legacy

import (
	"io"
	"os"
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
)

const (
	uartPorts = 8
	// uartQueue bounds host input that the guest has not read, in bytes.
	uartQueue = 4096
	uartFIFO  = 16

	// Registers (16550A data sheet; linux/serial_reg.h).
	uartData    = 0 // DLAB: divisor, low
	uartIER     = 1 // DLAB: divisor, high
	uartIIR     = 2 // write: FCR
	uartLCR     = 3
	uartMCR     = 4
	uartLSR     = 5
	uartMSR     = 6
	uartScratch = 7

	ierReceive  = 0x01
	ierTransmit = 0x02
	ierAll      = 0x0f

	iirNone     = 0x01
	iirTransmit = 0x02
	iirReceive  = 0x04
	iirFIFO     = 0xc0

	fcrEnable = 0x01
	fcrClear  = 0x02 // receive FIFO

	lcrDLAB = 0x80

	mcrLoop = 0x10
	mcrOut2 = 0x08 // gates the interrupt line on PCs
	mcrAll  = 0x1f

	lsrReady = 0x01
	lsrEmpty = 0x60 // transmitter and its FIFO

	msrIdle = 0xb0 // carrier, data set ready, clear to send
)

// UART is a 16550A whose transmitter is always empty: a byte is out when its port write
// returns. Output goes to a writer on the vCPU's goroutine, input comes from Input. It
// raises interrupts as level on one line.
type UART struct {
	out  io.Writer
	line irq.Line

	mu      sync.Mutex
	space   sync.Cond // input queue has room, a driver listens, or closed
	closed  bool
	heard   bool // a driver has listened since the last reset
	input   [uartQueue]byte
	first   int // index of the oldest byte
	count   int
	ier     uint8
	fcr     uint8
	lcr     uint8
	mcr     uint8
	scratch uint8
	divisor uint16
	sent    bool // the transmitter became empty, and the guest was not told yet
	driven  bool
	scrap   [1]byte
}

// NewUART makes a serial port. out must not block for long: the vCPU waits for it.
// Its errors are ignored, as a serial line has no way to report them.
func NewUART(out io.Writer, line irq.Line) *UART {
	u := &UART{out: out, line: line, divisor: 1}
	u.space.L = &u.mu
	return u
}

// Input returns a writer to the guest's receiver. A write blocks while the guest does
// not read, and ends with os.ErrClosed after Close.
func (u *UART) Input() io.Writer { return (*uartInput)(u) }

// AwaitReader waits until the guest's driver has taken received bytes by interrupt since the
// last reset, and reports false if Close comes first. Linux throws away what arrives before that.
func (u *UART) AwaitReader() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for !u.heard && !u.closed {
		u.space.Wait()
	}
	return !u.closed
}

// listens tells an open port from a probed one: probing enables all interrupts for a
// moment, but not their way out.
func (u *UART) listens() bool {
	return u.ier&ierReceive != 0 && u.mcr&mcrOut2 != 0 && u.mcr&mcrLoop == 0
}

type uartInput UART

func (in *uartInput) Write(p []byte) (int, error) {
	u := (*UART)(in)
	u.mu.Lock()
	defer u.mu.Unlock()
	total := 0
	for total < len(p) {
		for u.count == uartQueue && !u.closed {
			u.space.Wait()
		}
		if u.closed {
			return total, os.ErrClosed
		}
		for ; u.count < uartQueue && total < len(p); u.count++ {
			u.input[(u.first+u.count)%uartQueue] = p[total]
			total++
		}
		u.drive()
	}
	return total, nil
}

// Close ends waiting input. The registers go on working.
func (u *UART) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.space.Broadcast()
	return nil
}

// Reset puts the registers into their initial state and drops queued input.
func (u *UART) Reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ier, u.fcr, u.lcr, u.mcr, u.scratch, u.divisor, u.sent = 0, 0, 0, 0, 0, 1, false
	u.first, u.count, u.heard = 0, 0, false
	u.space.Broadcast()
	u.drive()
}

// Read returns the registers from off on, one byte each.
func (u *UART) Read(off uint64, p []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range p {
		p[i] = u.readByte(off + uint64(i))
	}
	u.drive()
}

func (u *UART) readByte(off uint64) byte {
	switch off {
	case uartData:
		if u.lcr&lcrDLAB != 0 {
			return byte(u.divisor)
		}
		return u.receive()
	case uartIER:
		if u.lcr&lcrDLAB != 0 {
			return byte(u.divisor >> 8)
		}
		return u.ier
	case uartIIR:
		return u.identify()
	case uartLCR:
		return u.lcr
	case uartMCR:
		return u.mcr
	case uartLSR:
		if u.count > 0 {
			return lsrEmpty | lsrReady
		}
		return lsrEmpty
	case uartMSR:
		return u.modem()
	case uartScratch:
		return u.scratch
	}
	return 0xff
}

// modem returns the modem status; in loopback it mirrors the modem control outputs.
func (u *UART) modem() byte {
	if u.mcr&mcrLoop == 0 {
		return msrIdle
	}
	m := u.mcr
	return m&0x0c<<4 | m&0x02<<3 | m&0x01<<5
}

func (u *UART) receive() byte {
	if u.count == 0 {
		return 0
	}
	v := u.input[u.first]
	u.first = (u.first + 1) % uartQueue
	u.count--
	u.space.Broadcast()
	return v
}

// identify returns the cause of the interrupt; reading "transmitter empty" acknowledges it.
func (u *UART) identify() byte {
	var fifo byte
	if u.fcr&fcrEnable != 0 {
		fifo = iirFIFO
	}
	switch {
	case u.ier&ierReceive != 0 && u.count > 0:
		return fifo | iirReceive
	case u.ier&ierTransmit != 0 && u.sent:
		u.sent = false
		return fifo | iirTransmit
	}
	return fifo | iirNone
}

// Write sets the registers from off on, one byte each.
func (u *UART) Write(off uint64, p []byte) {
	for i, v := range p {
		if at := off + uint64(i); at == uartData && u.transmits() {
			u.send(v)
		} else {
			u.setByte(at, v)
		}
	}
}

func (u *UART) transmits() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lcr&lcrDLAB == 0
}

func (u *UART) send(v byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mcr&mcrLoop != 0 {
		if u.count < uartFIFO {
			u.input[(u.first+u.count)%uartQueue] = v
			u.count++
		}
	} else {
		u.scrap[0] = v
		_, _ = u.out.Write(u.scrap[:]) // a serial line does not report who is not listening
	}
	u.sent = true
	u.drive()
}

func (u *UART) setByte(off uint64, v byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	dlab := u.lcr&lcrDLAB != 0
	switch off {
	case uartData:
		u.divisor = u.divisor&0xff00 | uint16(v)
	case uartIER:
		if dlab {
			u.divisor = u.divisor&0x00ff | uint16(v)<<8
			break
		}
		// Enabling the transmitter interrupt raises it: the transmitter is empty.
		u.sent = u.sent || v&^u.ier&ierTransmit != 0
		u.ier = v & ierAll
	case uartIIR:
		u.fcr = v
		// Queued host input is still on the line, not in the FIFO: it survives.
		if v&fcrClear != 0 && u.mcr&mcrLoop != 0 {
			u.first, u.count = 0, 0
		}
	case uartLCR:
		u.lcr = v
	case uartMCR:
		u.mcr = v & mcrAll
	case uartScratch:
		u.scratch = v
	}
	u.heard = u.heard || u.listens()
	u.space.Broadcast()
	u.drive()
}

// drive puts the line to what the registers say.
func (u *UART) drive() {
	cause := u.ier&ierReceive != 0 && u.count > 0 || u.ier&ierTransmit != 0 && u.sent
	level := cause && u.mcr&mcrOut2 != 0 && u.mcr&mcrLoop == 0
	if level == u.driven {
		return
	}
	u.driven = level
	_ = u.line.Set(level) // the guest cannot be told that its interrupt line failed
}
