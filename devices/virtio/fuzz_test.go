package virtio_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// fuzzDevice lets a driver put chains of any shape and content into any queue, write the configuration and reset the device in
// between. The device must come up afterwards.
func fuzzDevice(f *testing.F, newDevice func(testing.TB) virtio.Device) {
	f.Add([]byte{0, 16, 0, 0, 1, 64, 8, 1, 0xff, 0, 0, 0}, []byte("content"))
	f.Fuzz(func(t *testing.T, script, content []byte) {
		v := newVictim(t, newDevice(t))
		bar := v.d.BAR
		v.start()
		copy(v.buf, content)
		v.play(script)
		v.heal(bar)
	})
}

// play does what a script says, four bytes a step.
func (v *victim) play(script []byte) {
	var bufs []virtqtest.Buf
	for ; len(script) >= 4; script = script[4:] {
		queue, n, at := int(script[0])%v.queues(), uint32(script[1]), uint64(script[2])
		switch script[3] & 7 {
		default: // a buffer more
			if len(bufs) < 8 {
				n <<= script[3] >> 4
				bufs = append(bufs, virtqtest.Buf{Addr: v.ram + at<<3, Len: n, Write: script[3]&8 != 0})
			}
		case 1: // a chain of those
			if len(bufs) > 0 {
				v.d.Rings[queue].Add(bufs...) // where there is room
			}
			bufs = bufs[:0]
			v.d.Kick(queue)
		case 2:
			for _, _, ok := v.d.Rings[queue].Used(); ok; _, _, ok = v.d.Rings[queue].Used() {
			}
		case 3:
			v.m.Write(v.d.BAR+v.d.Caps[virtiotest.CapDevice].Off+at, 1<<(n&3), uint64(n))
		case 4:
			if n == 0 { // it takes a while
				v.start()
			}
		}
	}
	for i := 0; i < 200 && v.d.Common(virtiotest.Status, 1)&virtiotest.NeedsReset == 0; i++ {
		runtime.Gosched() // the device does what it was asked
	}
}

func FuzzRNG(f *testing.F) {
	f.Add([]byte{0, 255, 0, 0xf8, 0, 0, 0, 1}, []byte{})
	fuzzDevice(f, func(testing.TB) virtio.Device { return virtio.NewRNG() })
}

// FuzzConsole reaches all queues: those of its ports and the control messages.
func FuzzConsole(f *testing.F) {
	f.Add([]byte{3, 8, 0, 0, 3, 0, 0, 1, 2, 16, 9, 0x28, 2, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{3, 8, 0, 0, 3, 0, 0, 1, 5, 255, 9, 0x40, 5, 0, 0, 1, 0, 0, 0, 4}, []byte{1, 0, 0, 0, 6, 0, 1, 0})
	fuzzDevice(f, newHostileConsole)
}

// Fuzz9P has messages of 9P in guest memory: FuzzSession of package share goes deeper, and has no queue.
func Fuzz9P(f *testing.F) {
	chain := []byte{0, 21, 0, 0, 0, 200, 200, 8, 0, 0, 0, 1}
	version := append([]byte{21, 0, 0, 0, 100, 255, 255, 0, 0, 1, 0, 8, 0}, "9P2000.L"...)
	f.Add(chain, version)
	attach := binary.LittleEndian.AppendUint32([]byte{23, 0, 0, 0, 104, 0, 0, 0, 0, 0, 0}, 0xffffffff)
	f.Add(append(chain, 0, 23, 3, 0, 0, 200, 200, 8, 0, 0, 0, 1), append(append(version, 0, 0, 0), append(attach, 0, 0, 0, 0, 0, 0, 0, 0)...))
	fuzzDevice(f, newHostile9P)
}
