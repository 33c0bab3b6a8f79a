package legacy

import "github.com/stile-vmm/stile/devices/bus"

// I8042 is the command port of a keyboard controller that is not there but for its reset
// line. Its status says "output full" for ever and "input full" never: the former ends
// Linux's probe after 16 bytes with "no controller", the latter ends its wait before a
// reset at the first look. With no answer at all the probe would be as quick, but the
// wait before the reset 65,536 reads long.
type I8042 struct{ notify Notify }

const (
	i8042OutputFull = 0x01
	i8042PulseReset = 0xfe
)

// NewI8042 makes the command port.
func NewI8042(notify Notify) *I8042 { return &I8042{notify} }

// Read returns the status.
func (*I8042) Read(_ uint64, p []byte) { fill(p, i8042OutputFull) }

// Write reports a reset for the command that pulses the reset line.
func (k *I8042) Write(_ uint64, p []byte) {
	if p[0] == i8042PulseReset {
		k.notify(Event{Kind: Reset})
	}
}

// I8042Data is the keyboard controller's data port: it reads as ones and ignores writes.
type I8042Data struct{}

// Read fills p with ones.
func (I8042Data) Read(_ uint64, p []byte) { fill(p, 0xff) }

// Write does nothing.
func (I8042Data) Write(uint64, []byte) {}

// PVPanic is the port by which a guest says that it crashed (QEMU, docs/specs/pvpanic).
type PVPanic struct{ notify Notify }

const (
	pvpanicPanicked    = 1 << 0
	pvpanicCrashLoaded = 1 << 1 // the guest's crash kernel takes over: no end yet
)

// NewPVPanic makes the port.
func NewPVPanic(notify Notify) *PVPanic { return &PVPanic{notify} }

// Read returns the supported events.
func (*PVPanic) Read(_ uint64, p []byte) { fill(p, pvpanicPanicked|pvpanicCrashLoaded) }

// Write reports a panic.
func (d *PVPanic) Write(_ uint64, p []byte) {
	if p[0]&pvpanicPanicked != 0 {
		d.notify(Event{Kind: Panic, Value: p[0]})
	}
}

// DebugExitPort is a port that ends the VM with the value written to it.
type DebugExitPort struct{ notify Notify }

// NewDebugExitPort makes the port.
func NewDebugExitPort(notify Notify) *DebugExitPort { return &DebugExitPort{notify} }

// Read fills p with zeros.
func (*DebugExitPort) Read(_ uint64, p []byte) { clear(p) }

// Write reports the first byte.
func (d *DebugExitPort) Write(_ uint64, p []byte) {
	d.notify(Event{Kind: DebugExit, Value: p[0]})
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}

var _ = [...]bus.Handler{(*I8042)(nil), I8042Data{}, (*PVPanic)(nil), (*DebugExitPort)(nil), (*UART)(nil), (*RTC)(nil), (*PM)(nil), (*ResetControl)(nil)}
