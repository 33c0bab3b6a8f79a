package legacy

import (
	"sync"

	"github.com/stile-vmm/stile/devices/irq"
	"github.com/stile-vmm/stile/internal/layout"
)

// Registers of the block, byte offsets (ACPI 6.5, 4.8.3).
const (
	pmStatus  = layout.PortPM1Event - layout.PortPMBlock
	pmEnable  = pmStatus + 2
	pmControl = layout.PortPM1Control - layout.PortPMBlock
	pmReset   = layout.PortReset - layout.PortPMBlock

	pmPowerButton = 1 << 8 // of status and enable
	pmEvents      = 1<<0 | 1<<5 | pmPowerButton | 1<<10
	pmSCIEnable   = 1 << 0  // of control: ACPI mode, always on
	pmSleepEnable = 1 << 13 // of control, reads as 0
	pmSleepShift  = 10
	pmSleepMask   = 7
)

// PM is ACPI's fixed hardware: PM1 event and control, and the reset register.
// There is no SMI command: the machine is in ACPI mode from the start.
type PM struct {
	sci    irq.Line
	notify Notify

	mu      sync.Mutex
	status  uint16
	enable  uint16
	control uint16
	driven  bool
}

// NewPM makes the block with its interrupt line.
func NewPM(sci irq.Line, notify Notify) *PM {
	return &PM{sci: sci, notify: notify, control: pmSCIEnable}
}

// PressPowerButton asks the guest to shut down.
func (m *PM) PressPowerButton() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status |= pmPowerButton
	return m.drive()
}

// Reset clears events and their enables.
func (m *PM) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status, m.enable, m.control = 0, 0, pmSCIEnable
	_ = m.drive() // a line that cannot be lowered has nobody to tell here
}

// Read returns the bytes of the registers at off.
func (m *PM) Read(off uint64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range p {
		p[i] = m.readByte(off + uint64(i))
	}
}

func (m *PM) readByte(off uint64) byte {
	switch off {
	case pmStatus, pmStatus + 1:
		return byte(m.status >> (8 * (off - pmStatus)))
	case pmEnable, pmEnable + 1:
		return byte(m.enable >> (8 * (off - pmEnable)))
	case pmControl, pmControl + 1:
		return byte(m.control >> (8 * (off - pmControl)))
	}
	return 0
}

// Write sets the registers at off. Status bits are cleared by writing 1.
func (m *PM) Write(off uint64, p []byte) {
	if e, ok := m.write(off, p); ok {
		m.notify(e)
	}
}

func (m *PM) write(off uint64, p []byte) (Event, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range p {
		switch at := off + uint64(i); at {
		case pmStatus, pmStatus + 1:
			m.status &^= uint16(v) << (8 * (at - pmStatus))
		case pmEnable, pmEnable + 1:
			m.enable = setByte(m.enable, at-pmEnable, v) & pmEvents
		case pmControl, pmControl + 1:
			m.control = setByte(m.control, at-pmControl, v) | pmSCIEnable
		case pmReset:
			if v == layout.ResetValue {
				return Event{Kind: Reset}, true
			}
		}
	}
	_ = m.drive() // the guest cannot be told that its interrupt line failed
	if m.control&pmSleepEnable == 0 {
		return Event{}, false
	}
	m.control &^= pmSleepEnable
	return Event{Kind: PowerOff}, m.control>>pmSleepShift&pmSleepMask == layout.SleepTypeS5
}

func setByte(word uint16, i uint64, v byte) uint16 {
	shift := 8 * i
	return word&^(0xff<<shift) | uint16(v)<<shift
}

func (m *PM) drive() error {
	level := m.status&m.enable != 0
	if level == m.driven {
		return nil
	}
	m.driven = level
	return m.sci.Set(level)
}
