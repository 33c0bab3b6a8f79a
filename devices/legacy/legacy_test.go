package legacy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
	"github.com/stile-vmm/stile/internal/layout"
)

// pc is a board on a bus, with what it reports.
type pc struct {
	*Board
	ports  bus.Bus
	irq    *pcitest.IRQ
	out    bytes.Buffer
	events []Event
	now    time.Time
}

func newPC(t testing.TB) *pc {
	t.Helper()
	p := &pc{irq: pcitest.NewIRQ(0), now: time.Date(2026, 11, 23, 21, 45, 9, 0, time.UTC)}
	b, err := New(Options{Ports: &p.ports, IRQ: p.irq, Serial: &p.out, Now: func() time.Time { return p.now },
		Notify: func(e Event) { p.events = append(p.events, e) }})
	if err != nil {
		t.Fatal(err)
	}
	p.Board = b
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pc) in(port uint64, n int) uint32 {
	var b [4]byte
	p.ports.Read(port, b[:n])
	return binary.LittleEndian.Uint32(b[:])
}

func (p *pc) put(port uint64, n int, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	p.ports.Write(port, b[:n])
}

func (p *pc) uart(reg uint64) uint8       { return uint8(p.in(layout.PortCOM1+reg, 1)) }
func (p *pc) setUART(reg uint64, v uint8) { p.put(layout.PortCOM1+reg, 1, uint32(v)) }

func TestEvents(t *testing.T) {
	const s5 = layout.SleepTypeS5 << pmSleepShift
	for _, test := range []struct {
		name string
		port uint64
		n    int
		v    uint32
		want []Event
	}{
		{"S5", layout.PortPM1Control, 2, s5 | pmSleepEnable, []Event{{Kind: PowerOff}}},
		{"S5 by byte", layout.PortPM1Control + 1, 1, (s5 | pmSleepEnable) >> 8, []Event{{Kind: PowerOff}}},
		{"S5 without enable", layout.PortPM1Control, 2, s5, nil},
		{"S3", layout.PortPM1Control, 2, 1<<pmSleepShift | pmSleepEnable, nil},
		{"reset register", layout.PortReset, 1, layout.ResetValue, []Event{{Kind: Reset}}},
		{"reset register, other value", layout.PortReset, 1, 6, nil},
		{"i8042", layout.PortI8042Cmd, 1, 0xfe, []Event{{Kind: Reset}}},
		{"i8042, other command", layout.PortI8042Cmd, 1, 0xaa, nil},
		{"panic", layout.PortPVPanic, 1, 1, []Event{{Kind: Panic, Value: 1}}},
		{"crash kernel", layout.PortPVPanic, 1, 2, nil},
		{"debug exit", layout.PortDebugExit, 1, 42, []Event{{Kind: DebugExit, Value: 42}}},
		{"debug exit, wide", layout.PortDebugExit, 4, 42, []Event{{Kind: DebugExit, Value: 42}}},
	} {
		p := newPC(t)
		p.put(test.port, test.n, test.v)
		if len(p.events) != len(test.want) || len(test.want) > 0 && p.events[0] != test.want[0] {
			t.Errorf("%s: %v, want %v", test.name, p.events, test.want)
		}
	}
	if got := Reset.String() + Kind(9).String(); got != "resetKind(9)" {
		t.Errorf("names: %s", got)
	}
}

// Linux looks at the controller's status 17 times before it gives up, and waits for
// "input full" to go before it resets.
func TestI8042Probe(t *testing.T) {
	p := newPC(t)
	if v := p.in(layout.PortI8042Cmd, 1); v&1 == 0 || v&2 != 0 {
		t.Errorf("status %#x", v)
	}
	if v := p.in(layout.PortI8042Data, 1); v != 0xff {
		t.Errorf("data %#x", v)
	}
	if v := p.in(layout.PortPVPanic, 1); v != 3 {
		t.Errorf("pvpanic offers %#x", v)
	}
}

func TestRTC(t *testing.T) {
	p := newPC(t)
	for reg, want := range map[uint32]uint32{0: 0x09, 2: 0x45, 4: 0x21, 6: 2, 7: 0x23, 8: 0x11, 9: 0x26, 0x32: 0x20,
		0x0a: 0x26, 0x0b: 0x02, 0x0c: 0, 0x0d: 0x80, 0x10: 0} {
		p.put(layout.PortRTC, 1, reg|0x80) // with NMIs masked
		p.put(layout.PortRTC+1, 1, 0)
		if got := p.in(layout.PortRTC+1, 1); got != want {
			t.Errorf("register %#x is %#x, want %#x", reg, got, want)
		}
	}
	p.put(layout.PortRTC, 2, 0x5a0f) // index and data at once
	if got := p.in(layout.PortRTC, 2); got != 0x5aff {
		t.Errorf("index and CMOS byte %#x", got)
	}
}

func TestPowerButton(t *testing.T) {
	p := newPC(t)
	step := func(want bool, what string) {
		t.Helper()
		if got := p.irq.Level(layout.GSISCI); got != want {
			t.Errorf("%s: SCI %v", what, got)
		}
	}
	if p.in(layout.PortPM1Control, 2) != 1 {
		t.Error("not in ACPI mode")
	}
	if err := p.PM.PressPowerButton(); err != nil {
		t.Fatal(err)
	}
	step(false, "not enabled")
	p.put(layout.PortPM1Event+2, 2, 0xffff)
	step(true, "enabled")
	if got := p.in(layout.PortPM1Event, 4); got != pmEvents<<16|pmPowerButton {
		t.Errorf("status and enable %#x", got)
	}
	p.put(layout.PortPM1Event, 2, 1)
	step(true, "another bit cleared")
	p.put(layout.PortPM1Event+1, 1, pmPowerButton>>8)
	step(false, "acknowledged")
	if err := p.PM.PressPowerButton(); err != nil {
		t.Fatal(err)
	}
	step(true, "pressed again")
	p.Board.Reset()
	step(false, "reset")
}

func TestUARTProbe(t *testing.T) {
	p := newPC(t)
	p.setUART(uartScratch, 0xa5)
	if p.uart(uartScratch) != 0xa5 {
		t.Error("no scratch register: an 8250")
	}
	p.setUART(uartIER, 0xff)
	if p.uart(uartIER) != 0x0f {
		t.Error("IER has more than four bits: another chip")
	}
	p.setUART(uartIER, 0)
	p.setUART(uartMCR, mcrLoop|0x0a)
	if p.uart(uartMSR)&0xf0 != 0x90 {
		t.Errorf("loopback status %#x", p.uart(uartMSR))
	}
	p.setUART(uartData, 'x')
	if p.uart(uartLSR)&lsrReady == 0 || p.uart(uartData) != 'x' || p.out.Len() != 0 {
		t.Error("loopback does not loop")
	}
	p.setUART(uartMCR, 0)
	p.setUART(uartIIR, fcrEnable|0x20)
	if p.uart(uartIIR) != 0xc1 {
		t.Errorf("IIR %#x is not a 16550A's", p.uart(uartIIR))
	}
	p.setUART(uartLCR, lcrDLAB)
	p.setUART(uartData, 0x34)
	p.setUART(uartIER, 0x12)
	if p.uart(uartData) != 0x34 || p.uart(uartIER) != 0x12 {
		t.Error("divisor is not kept")
	}
	p.setUART(uartLCR, 3)
	if p.uart(uartIER) != 0 || p.out.Len() != 0 {
		t.Error("the divisor leaked")
	}
}

func TestUARTOutput(t *testing.T) {
	p := newPC(t)
	for _, c := range []byte("hello\n") {
		if p.uart(uartLSR)&0x20 == 0 {
			t.Fatal("transmitter is not empty")
		}
		p.setUART(uartData, c)
	}
	if p.out.String() != "hello\n" {
		t.Errorf("output %q", p.out.String())
	}
}

func TestUARTInterrupts(t *testing.T) {
	p := newPC(t)
	step := func(want bool, what string) {
		t.Helper()
		if got := p.irq.Level(layout.GSICOM1); got != want {
			t.Errorf("%s: line %v", what, got)
		}
	}
	p.setUART(uartIER, ierTransmit)
	step(false, "OUT2 is off")
	p.setUART(uartMCR, mcrOut2)
	step(true, "transmitter empty")
	if p.uart(uartIIR) != iirTransmit || p.uart(uartIIR) != iirNone {
		t.Error("IIR does not say and acknowledge it")
	}
	step(false, "acknowledged")
	p.setUART(uartIER, 0)
	p.setUART(uartIER, ierTransmit|ierReceive)
	step(true, "enabled again")
	p.uart(uartIIR)
	p.setUART(uartData, 'x')
	step(true, "sent")
	p.uart(uartIIR)
	if _, err := p.UART.Input().Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	step(true, "received")
	if p.uart(uartIIR) != iirReceive || p.uart(uartData) != 'a' {
		t.Error("no receive interrupt")
	}
	step(true, "one more")
	if p.uart(uartData) != 'b' || p.uart(uartData) != 0 {
		t.Error("input is wrong")
	}
	step(false, "all read")
}

func TestUARTInput(t *testing.T) {
	p := newPC(t)
	text := strings.Repeat("0123456789", 1000)
	done := make(chan error, 1)
	go func() {
		_, err := p.UART.Input().Write([]byte(text))
		done <- err
	}()
	var got strings.Builder
	for got.Len() < len(text) {
		if p.uart(uartLSR)&lsrReady != 0 {
			got.WriteByte(p.uart(uartData))
		}
	}
	if err := <-done; err != nil || got.String() != text {
		t.Errorf("input arrived changed, %v", err)
	}
	go func() {
		_, err := p.UART.Input().Write(make([]byte, uartQueue+1))
		done <- err
	}()
	if err := p.UART.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a blocked write ended with %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	var ports bus.Bus
	if _, err := ports.Add("taken", layout.PortDebugExit, 1, I8042Data{}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Ports: &ports, IRQ: pcitest.NewIRQ(0), Notify: func(Event) {}}); !errors.Is(err, bus.ErrOverlap) {
		t.Fatalf("error %v", err)
	}
	if _, err := ports.Add("COM1 again", layout.PortCOM1, 8, I8042Data{}); err != nil {
		t.Errorf("partial work was not undone: %v", err)
	}
}

// FuzzUART plays any accesses; a blank UART must work afterwards.
func FuzzUART(f *testing.F) {
	f.Add([]byte{0x01, 0xff, 0x04, 0x1f, 0x00, 0x41, 0x82, 0, 0x03, 0x80})
	f.Add([]byte{0x04, 0x10, 0x00, 1, 0x00, 2, 0x80, 0, 0x02, 0x07, 0x40, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		p := newPC(t)
		for ; len(script) >= 2; script = script[2:] {
			reg, n := uint64(script[0]&7), 1+int(script[0]>>4&3)
			switch {
			case script[0]&0x80 != 0:
				p.in(layout.PortCOM1+reg, n)
			case script[0]&0x40 != 0 && p.UART.count < uartQueue-8:
				if _, err := p.UART.Input().Write(script[:2]); err != nil {
					t.Fatal(err)
				}
			default:
				p.put(layout.PortCOM1+reg, n, uint32(script[1])*0x01010101)
			}
			if p.UART.count < 0 || p.UART.count > uartQueue {
				t.Fatalf("%d bytes queued", p.UART.count)
			}
		}
		p.Board.Reset()
		if p.irq.Level(layout.GSICOM1) {
			t.Fatal("interrupt after a reset")
		}
		p.out.Reset()
		p.setUART(uartData, 'x')
		if p.out.String() != "x" {
			t.Fatal("no output after a reset")
		}
	})
}

// FuzzPorts plays any accesses to all ports of the board.
func FuzzPorts(f *testing.F) {
	f.Add([]byte{0x70, 0, 1, 0x0a, 0x71, 0, 0x81, 0, 0x04, 6, 2, 0x34, 0x10, 6, 4, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		p := newPC(t)
		for ; len(script) >= 4; script = script[4:] {
			port, n := uint64(binary.LittleEndian.Uint16(script)&0x7ff), 1+int(script[2]&3)
			if script[2]&0x80 != 0 {
				p.in(port, n)
			} else {
				p.put(port, n, uint32(script[3])*0x01010101)
			}
			if len(p.events) > 4 {
				t.Fatalf("one write made %d events", len(p.events))
			}
			p.events = p.events[:0]
		}
		if p.in(layout.PortPM1Control, 2)&1 == 0 {
			t.Fatal("left ACPI mode")
		}
	})
}

func BenchmarkUARTWrite(b *testing.B) {
	u := NewUART(discard{}, nil)
	p := []byte{'x'}
	b.ReportAllocs()
	for b.Loop() {
		u.Write(uartData, p)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
