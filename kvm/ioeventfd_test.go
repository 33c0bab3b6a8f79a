package kvm

import (
	"errors"
	"syscall"
	"testing"
)

func TestIOEventFD(t *testing.T) {
	// mov edx, port or mov ebx, address; then writes of 1, 2 and 4 bytes of eax
	pio := code(0xba, uint32(testPort), 0xb8, uint32(0x11223344), 0xee, 0x66, 0xef, 0xef, 0xf4)
	mmio := code(0xbb, uint32(mmioAddr), 0xb8, uint32(0x11223344), 0x88, 0x03, 0x66, 0x89, 0x03, 0x89, 0x03, 0xf4)
	tests := map[string]struct {
		code  []byte
		event IOEvent
		exits []int // sizes of the writes that still exit
	}{
		"port 1":              {pio, IOEvent{Addr: testPort, PIO: true, Len: 1}, []int{2, 4}},
		"port 2":              {pio, IOEvent{Addr: testPort, PIO: true, Len: 2}, []int{1, 4}},
		"port 4":              {pio, IOEvent{Addr: testPort, PIO: true, Len: 4}, []int{1, 2}},
		"port any":            {pio, IOEvent{Addr: testPort, PIO: true}, nil},
		"port match":          {pio, IOEvent{Addr: testPort, PIO: true, Len: 2, Match: true, Data: 0x3344}, []int{1, 4}},
		"port match of other": {pio, IOEvent{Addr: testPort, PIO: true, Len: 2, Match: true, Data: 1}, []int{1, 2, 4}},
		"other port":          {pio, IOEvent{Addr: testPort + 8, PIO: true}, []int{1, 2, 4}},
		"memory 4":            {mmio, IOEvent{Addr: mmioAddr, Len: 4}, []int{1, 2}},
		"memory any":          {mmio, IOEvent{Addr: mmioAddr}, nil},
		"memory match":        {mmio, IOEvent{Addr: mmioAddr, Len: 4, Match: true, Data: 0x11223344}, []int{1, 2}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, false)
			c := g.vcpu(0)
			e := g.eventFD()
			check(t, g.vm.AttachIOEventFD(test.event, e.Int()))
			if err := g.vm.AttachIOEventFD(test.event, e.Int()); !errors.Is(err, syscall.EEXIST) {
				t.Errorf("second attach: %v, want EEXIST", err)
			}
			g.longMode(c, test.code)
			for _, size := range test.exits {
				if got := g.writeSize(c); got != size {
					t.Errorf("exit of a write of %d bytes, want %d", got, size)
				}
			}
			g.next(c, ExitHLT)
			if n := e.TryWait(); n != uint64(3-len(test.exits)) {
				t.Errorf("%d signals, want %d", n, 3-len(test.exits))
			}
			check(t, g.vm.DetachIOEventFD(test.event, e.Int()))
			g.longMode(c, test.code)
			for range 3 {
				g.writeSize(c)
			}
			g.next(c, ExitHLT)
			if n := e.TryWait(); n != 0 {
				t.Errorf("%d signals after detaching", n)
			}
		})
	}
}

// writeSize runs c to a write and returns its size in bytes.
func (g *guest) writeSize(c *VCPU) int {
	g.t.Helper()
	exit, err := c.Run()
	check(g.t, err)
	switch {
	case exit.Reason == ExitIO && exit.IO().Out:
		return exit.IO().Size
	case exit.Reason == ExitMMIO && exit.MMIO().Write:
		return len(exit.MMIO().Data)
	}
	g.t.Fatalf("exit %v, want a write", exit)
	return 0
}
