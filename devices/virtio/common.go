package virtio

import (
	"encoding/binary"
	"time"
)

// Common configuration registers (4.1.4.3), byte offsets.
const (
	regDeviceSelect  = 0x00
	regDeviceFeature = 0x04
	regDriverSelect  = 0x08
	regDriverFeature = 0x0c
	regConfigVector  = 0x10
	regNumQueues     = 0x12
	regStatus        = 0x14
	regGeneration    = 0x15
	regQueueSelect   = 0x16
	regQueueSize     = 0x18
	regQueueVector   = 0x1a
	regQueueEnable   = 0x1c
	regQueueNotify   = 0x1e
	regQueueDesc     = 0x20
	regQueueDriver   = 0x28
	regQueueDevice   = 0x30
	commonSize       = 0x38
)

// Device status bits (2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128

	statusByDriver = statusAcknowledge | statusDriver | statusDriverOK | statusFeaturesOK | statusFailed
)

// commonRegs is the transport as the handler of the common configuration. Reads may have
// any width; writes must be of one register, or of half a 64-bit one, and are dropped
// otherwise (4.1.3.1).
type commonRegs Transport

func (c *commonRegs) Read(off uint64, p []byte) {
	t := (*Transport)(c)
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(p) > 0 {
		v, start, width := t.register(off)
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		n := copy(p, b[off-start:width])
		p, off = p[n:], off+uint64(n)
	}
}

// register returns the register that off is in: its value, offset and width in bytes.
func (t *Transport) register(off uint64) (v, start, width uint64) {
	switch {
	case off < regConfigVector:
		return t.featureRegister(off)
	case off >= regQueueDesc && off < commonSize:
		start = off &^ 7
		if q := t.selected(); q != nil {
			v = *q.address(start)
		}
		return v, start, 8
	case off == regStatus:
		return uint64(t.status.Load()), off, 1
	case off == regGeneration:
		t.configMu.RLock() // not between a change and its new generation
		defer t.configMu.RUnlock()
		return uint64(t.generation.Load() & 0xff), off, 1
	case off >= commonSize:
		return 0, off, 1
	}
	start = off &^ 1
	switch start {
	case regConfigVector:
		v = uint64(t.configVector.Load())
	case regNumQueues:
		v = uint64(len(t.regs))
	case regQueueSelect:
		v = uint64(t.queueSelect)
	default:
		v = t.queueRegister(start)
	}
	return v, start, 2
}

func (t *Transport) featureRegister(off uint64) (v, start, width uint64) {
	start = off &^ 3
	switch start {
	case regDeviceSelect:
		v = uint64(t.deviceSelect)
	case regDeviceFeature:
		v = half(t.offered(), t.deviceSelect)
	case regDriverSelect:
		v = uint64(t.driverSelect)
	case regDriverFeature:
		v = half(t.driverFeatures, t.driverSelect)
	}
	return v, start, 4
}

func (t *Transport) queueRegister(off uint64) uint64 {
	q := t.selected()
	if q == nil {
		return 0 // a size of 0 says that there is no such queue
	}
	switch off {
	case regQueueSize:
		return uint64(q.size)
	case regQueueVector:
		return uint64(q.vector.Load())
	case regQueueEnable:
		if q.enabled {
			return 1
		}
	case regQueueNotify:
		return uint64(t.queueSelect)
	}
	return 0
}

func (t *Transport) offered() uint64 { return t.info.Features | transportFeatures }

func half(v uint64, sel uint32) uint64 {
	if sel > 1 {
		return 0
	}
	return v >> (32 * sel) & 0xffffffff
}

func (t *Transport) selected() *queueRegs {
	if int(t.queueSelect) >= len(t.regs) {
		return nil
	}
	return &t.regs[t.queueSelect]
}

func (q *queueRegs) address(off uint64) *uint64 {
	switch off {
	case regQueueDesc:
		return &q.desc
	case regQueueDriver:
		return &q.driver
	default:
		return &q.device
	}
}

func (c *commonRegs) Write(off uint64, p []byte) {
	t := (*Transport)(c)
	var b [8]byte
	if copy(b[:], p) != len(p) {
		return
	}
	v := binary.LittleEndian.Uint64(b[:])
	t.mu.Lock()
	if t.resetting != nil || t.closed {
		t.mu.Unlock()
		return
	}
	if off == regStatus && len(p) == 1 && v == 0 {
		done := t.beginReset()
		t.mu.Unlock()
		waitFor(done, resetGrace)
		return
	}
	defer t.mu.Unlock()
	t.writeRegister(off, len(p), v)
}

func waitFor(done <-chan struct{}, limit time.Duration) {
	select {
	case <-done: // usual where no driver was active: spares the timer
		return
	default:
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func (t *Transport) writeRegister(off uint64, n int, v uint64) {
	switch {
	case off == regDeviceSelect && n == 4:
		t.deviceSelect = uint32(v)
	case off == regDriverSelect && n == 4:
		t.driverSelect = uint32(v)
	case off == regDriverFeature && n == 4:
		t.setDriverFeatures(uint32(v))
	case off == regConfigVector && n == 2:
		t.configVector.Store(t.validVector(v))
	case off == regStatus && n == 1:
		t.setStatus(uint32(v))
	case off == regQueueSelect && n == 2:
		t.queueSelect = uint16(v)
	case off > regQueueSelect:
		if q := t.selected(); q != nil {
			t.writeQueue(q, off, n, v)
		}
	}
}

func (t *Transport) writeQueue(q *queueRegs, off uint64, n int, v uint64) {
	if off == regQueueVector && n == 2 {
		q.vector.Store(t.validVector(v))
		return
	}
	// A queue does not change once it is enabled (4.1.4.3.2), nor does their number once
	// the driver is ready.
	if q.enabled || t.status.Load()&statusDriverOK != 0 {
		return
	}
	switch {
	case off == regQueueSize && n == 2:
		if v != 0 && v <= uint64(q.max) && v&(v-1) == 0 {
			q.size = uint16(v)
		}
	case off == regQueueEnable && n == 2:
		q.enabled = v == 1
	case off >= regQueueDesc && off < commonSize && n == 8 && off%8 == 0:
		*q.address(off) = v
	case off >= regQueueDesc && off < commonSize && n == 4 && off%4 == 0:
		a, shift := q.address(off&^7), off%8*8
		*a = *a&^(0xffffffff<<shift) | v<<shift
	}
}

func (t *Transport) validVector(v uint64) uint32 {
	if v >= uint64(t.msix.Len()) {
		return noVector
	}
	return uint32(v)
}

func (t *Transport) setDriverFeatures(v uint32) {
	if t.driverSelect > 1 || t.status.Load()&statusFeaturesOK != 0 {
		return
	}
	shift := 32 * t.driverSelect
	t.driverFeatures = t.driverFeatures&^(0xffffffff<<shift) | uint64(v)<<shift
}

// setStatus adds status bits; only a reset clears any (2.1.1).
func (t *Transport) setStatus(v uint32) {
	old := t.status.Load()
	add := v & statusByDriver &^ old
	if add&statusFeaturesOK != 0 && !t.acceptable() {
		add &^= statusFeaturesOK
	}
	if (old|add)&statusFeaturesOK == 0 {
		add &^= statusDriverOK
	}
	t.status.Or(add)
	if add&statusDriverOK == 0 {
		return
	}
	if err := t.activate(); err != nil {
		t.Fail(err)
	}
}

func (t *Transport) acceptable() bool {
	return t.driverFeatures&^t.offered() == 0 && t.driverFeatures&FeatureVersion1 != 0
}
