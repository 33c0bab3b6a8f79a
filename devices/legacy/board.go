package legacy

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/internal/layout"
)

// Options says what the devices are connected to.
type Options struct {
	Ports  *bus.Bus
	IRQ    irq.Allocator
	Notify Notify
	Serial io.Writer        // what the guest writes to COM1; nil drops it
	Now    func() time.Time // the guest's clock, UTC; nil for the host's
}

// Board is all legacy devices at their places in package layout.
type Board struct {
	UART *UART
	PM   *PM

	regs []*bus.Registration
}

// New makes the devices and puts them onto the bus.
func New(o Options) (*Board, error) {
	com1, err := o.IRQ.Line(layout.GSICOM1)
	if err != nil {
		return nil, fmt.Errorf("COM1: interrupt line %d: %w", layout.GSICOM1, err)
	}
	sci, err := o.IRQ.Line(layout.GSISCI)
	if err != nil {
		return nil, fmt.Errorf("ACPI: interrupt line %d: %w", layout.GSISCI, err)
	}
	if o.Serial == nil {
		o.Serial = io.Discard
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &Board{UART: NewUART(o.Serial, com1), PM: NewPM(sci, o.Notify)}
	for _, d := range []struct {
		name       string
		base, size uint64
		handler    bus.Handler
	}{
		{"COM1", layout.PortCOM1, uartPorts, b.UART},
		{"RTC", layout.PortRTC, rtcPorts, NewRTC(o.Now)},
		{"i8042 data", layout.PortI8042Data, 1, I8042Data{}},
		{"i8042 command", layout.PortI8042Cmd, 1, NewI8042(o.Notify)},
		{"reset control", layout.PortPCIAddress, resetControlPorts, &ResetControl{notify: o.Notify}},
		{"ACPI PM", layout.PortPMBlock, layout.PortPMBlockLen, b.PM},
		{"pvpanic", layout.PortPVPanic, 1, NewPVPanic(o.Notify)},
		{"debug exit", layout.PortDebugExit, 1, NewDebugExitPort(o.Notify)},
	} {
		r, err := o.Ports.Add(d.name, d.base, d.size, d.handler)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		b.regs = append(b.regs, r)
	}
	return b, nil
}

// Reset puts the devices into their initial state, as when the guest reboots.
func (b *Board) Reset() {
	b.UART.Reset()
	b.PM.Reset()
}

// Close takes the devices off the bus, when no vCPU is in them any more, and ends
// waiting input.
func (b *Board) Close() error {
	err := b.UART.Close()
	for _, r := range b.regs {
		r.Remove()
	}
	b.regs = nil
	return err
}
