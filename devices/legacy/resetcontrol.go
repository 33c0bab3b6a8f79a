package legacy

import "sync/atomic"

const (
	// resetControlPorts are those of an access to CF8, of which CF9 is the second.
	resetControlPorts = 4
	resetControlPort  = 1
	resetControlBits  = 0x0e // what the register holds
	resetControlCPU   = 0x04 // written as 1: reset, of the kind that the other bits say
)

// ResetControl is the reset control register at port CF9, as chipsets have it (Intel ICH, 13.7.5).
// It answers accesses of one byte only: a wider one is meant for the address register of PCI
// config space, which is not there.
type ResetControl struct {
	notify Notify
	value  atomic.Uint32
}

// Read returns the register, and ones elsewhere.
func (c *ResetControl) Read(off uint64, p []byte) {
	fill(p, 0xff)
	if off == resetControlPort && len(p) == 1 {
		p[0] = byte(c.value.Load())
	}
}

// Write reports a reset.
func (c *ResetControl) Write(off uint64, p []byte) {
	if off != resetControlPort || len(p) != 1 {
		return
	}
	c.value.Store(uint32(p[0] & resetControlBits &^ resetControlCPU))
	if p[0]&resetControlCPU != 0 {
		c.notify(Event{Kind: Reset})
	}
}
