package legacy

import (
	"sync"
	"time"
)

const (
	rtcPorts = 2 // index, data

	// Registers of the MC146818 and its successors.
	rtcSeconds = 0x00
	rtcMinutes = 0x02
	rtcHours   = 0x04
	rtcWeekday = 0x06
	rtcDay     = 0x07
	rtcMonth   = 0x08
	rtcYear    = 0x09
	rtcA       = 0x0a
	rtcB       = 0x0b
	rtcC       = 0x0c
	rtcD       = 0x0d
	rtcCentury = 0x32

	rtcDivider = 0x26 // A: 32,768 Hz, 1,024 Hz periodic; "update in progress" is never set
	rtc24Hour  = 0x02 // B
	rtcValid   = 0x80 // D: valid RAM and time
)

// RTC is the clock with its CMOS memory. Its time is the host's, in BCD and in 24 hours,
// which is what Linux assumes on x86; writes to time registers are dropped. There are no
// interrupts.
type RTC struct {
	now func() time.Time

	mu    sync.Mutex
	index uint8
	ram   [128]byte
}

// NewRTC makes a clock that shows now's time in UTC.
func NewRTC(now func() time.Time) *RTC { return &RTC{now: now} }

// Read returns the index, or the register it selects.
func (r *RTC) Read(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range p {
		p[i] = 0xff // the index port cannot be read
		if off+uint64(i) == 1 {
			p[i] = r.register(r.index)
		}
	}
}

// Write sets the index, or the register it selects.
func (r *RTC) Write(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, v := range p {
		switch {
		case off+uint64(i) == 0:
			r.index = v & 0x7f // bit 7 masks NMIs
		case r.index > rtcD && r.index != rtcCentury:
			r.ram[r.index] = v
		}
	}
}

func (r *RTC) register(i uint8) byte {
	switch i {
	case rtcA:
		return rtcDivider
	case rtcB:
		return rtc24Hour
	case rtcC:
		return 0
	case rtcD:
		return rtcValid
	case rtcSeconds, rtcMinutes, rtcHours, rtcWeekday, rtcDay, rtcMonth, rtcYear, rtcCentury:
		return bcd(field(r.now().UTC(), i))
	}
	return r.ram[i]
}

func field(t time.Time, i uint8) int {
	switch i {
	case rtcSeconds:
		return t.Second()
	case rtcMinutes:
		return t.Minute()
	case rtcHours:
		return t.Hour()
	case rtcWeekday:
		return int(t.Weekday()) + 1
	case rtcDay:
		return t.Day()
	case rtcMonth:
		return int(t.Month())
	case rtcYear:
		return t.Year() % 100
	}
	return t.Year() / 100
}

func bcd(v int) byte { return byte(v/10<<4 | v%10) }
