package vfio

import (
	"encoding/binary"
	"testing"
)

// e1000eLED is a register of an e1000e's BAR 0 that a reset sets back (82574 datasheet, 10.2.2.9), and keeps what is written.
const e1000eLED = 0xe00

// TestLabHotReset resets a conventional bus with all that is on it, the functions of STILE_VFIO_BUS, of which the last is an e1000e.
func TestLabHotReset(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_BUS")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		var all []edu
		for _, n := range nodes {
			all = append(all, labEdu(t, s, n))
		}
		last := len(all) - 1
		card := all[last]
		before := card.read(e1000eLED)
		card.write(e1000eLED, uint64(^before), 4)
		if now := card.read(e1000eLED); now == before {
			t.Fatalf("register %#x stays %#x", e1000eLED, now)
		}
		checkHotReset(t, all[0].Device)
		var command [2]byte
		if _, err := card.Config().ReadAt(command[:], 4); err != nil || binary.LittleEndian.Uint16(command[:])&2 == 0 {
			t.Errorf("the kernel has not restored memory decode: command %x, %v", command, err)
		}
		if now := card.read(e1000eLED); now != before {
			t.Errorf("register %#x is %#x after a hot reset, was %#x after the first", e1000eLED, now, before)
		}
		mem := memory(t, 8192)
		check(t, s.Map(labIOVA, mem, Read|Write))
		for i, e := range all[:last] {
			e.roundTrip(mem, byte(10*i+3))
		}
		check(t, card.Close()) // its group is still ours, which is proof enough
		checkHotReset(t, all[0].Device)
	})
}
