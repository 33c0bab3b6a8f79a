package pci

import (
	"testing"

	"github.com/stile-vmm/stile/devices/irq"
)

type noIRQs struct{ irq.Allocator }

func TestMSILayouts(t *testing.T) {
	for l, want := range map[MSILayout]struct {
		size    int
		control uint16
	}{
		{}:                        {10, 0},
		{Wide: true}:              {14, 0x80},
		{Masks: true}:             {20, 0x100},
		{Wide: true, Masks: true}: {24, 0x180},
	} {
		if got := l.Size(); got != want.size {
			t.Errorf("%+v has %d bytes, want %d", l, got, want.size)
		}
		f := NewFunction(Header{Name: "device"})
		m, err := NewMSI(noIRQs{}, 8)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.AddMSIAt(0xe0, m, l); err != nil {
			t.Fatal(err)
		}
		var b [2]byte
		f.ReadConfig(0xe2, b[:])
		if got := uint16(b[0]) | uint16(b[1])<<8; got != want.control|3<<1 {
			t.Errorf("%+v: message control %#x, want %#x", l, got, want.control|3<<1)
		}
	}
}

// TestCapabilitiesAtOffsets: the list has the order of the calls, and what has no room is refused.
func TestCapabilitiesAtOffsets(t *testing.T) {
	f := NewFunction(Header{Name: "device"})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(f.AddCapabilityAt(0x80, 1, make([]byte, 6), nil))
	check(f.AddCapabilityAt(0x40, CapExpress, make([]byte, 0x3a), nil))
	at, err := f.AddCapability(9, make([]byte, 2), nil)
	check(err)
	if at != 0x88 {
		t.Errorf("the next capability is at %#x, want behind all others", at)
	}
	check(f.AddExtCapabilityAt(0x100, 0, 0, nil, nil))
	check(f.AddExtCapabilityAt(0x200, 3, 1, make([]byte, 8), nil))
	ext, err := f.AddExtCapability(1, 2, make([]byte, 4), nil)
	check(err)
	if ext != 0x20c {
		t.Errorf("the next extended capability is at %#x", ext)
	}
	for off, want := range map[int]byte{RegCapabilities: 0x80, 0x81: 0x40, 0x41: 0x88, 0x89: 0, 0x103: 0x20, 0x203: 0x20, 0x202: 0xc1, 0x20f: 0} {
		var b [1]byte
		if f.ReadConfig(off, b[:]); b[0] != want {
			t.Errorf("config %#x has %#x, want %#x", off, b[0], want)
		}
	}
	for _, off := range []int{0x3c, 0x42, 0xfc} {
		if f.AddCapabilityAt(off, 1, make([]byte, 6), nil) == nil {
			t.Errorf("a capability at %#x", off)
		}
	}
	other := NewFunction(Header{Name: "other"})
	if other.AddExtCapabilityAt(0x140, 3, 1, nil, nil) == nil || other.AddExtCapabilityAt(0xffe, 3, 1, nil, nil) == nil {
		t.Error("a list of extended capabilities that does not begin at 0x100, or leaves the space")
	}
}

func TestROMsThatAreNone(t *testing.T) {
	f := NewFunction(Header{Name: "device"})
	for _, b := range []BAR{{Size: 1024}, {Size: 4096, Space: IO}, {Size: 4096, Is64: true}, {Size: 5000}} {
		if f.SetROM(b) == nil {
			t.Errorf("a ROM %+v", b)
		}
	}
}
