package hostpci

import (
	"encoding/binary"
	"testing"
)

// space is a configuration space for tests, 4096 bytes with a PCI Express capability of
// a type, and ACS where control is not nil.
func space(port portType, control *uint16) configSpace {
	c := make(configSpace, extLimit)
	c[0], c[1] = 0x86, 0x80
	c[regStatus] = statusHasList
	c[regCapabilities] = 0x40
	c[0x40], c[0x41] = 0x01, 0x50 // power management first
	c[0x50] = capPCIe
	binary.LittleEndian.PutUint16(c[0x52:], uint16(port)<<4|2)
	binary.LittleEndian.PutUint32(c[0x100:], 0x0001|1<<16|0x140<<20) // AER first
	if control != nil {
		binary.LittleEndian.PutUint32(c[0x140:], extACS|1<<16)
		binary.LittleEndian.PutUint16(c[0x144:], 0x5f)
		binary.LittleEndian.PutUint16(c[0x146:], *control)
	}
	return c
}

func TestACS(t *testing.T) {
	on, off, some := uint16(0x1d), uint16(0), uint16(0x15)
	loop := space(portRoot, nil)
	binary.LittleEndian.PutUint32(loop[0x140:], 0x0003|1<<16|0x100<<20)
	beyond := space(portRoot, nil)
	binary.LittleEndian.PutUint32(beyond[0x100:], extACS|1<<16)
	beyond = beyond[:0x104]
	dead := make(configSpace, extLimit)
	for i := range dead {
		dead[i] = 0xff
	}
	virtual := space(portRoot, &on)
	binary.LittleEndian.PutUint32(virtual, 0xffffffff)
	hardWired := space(portDownstream, &off)
	binary.LittleEndian.PutUint16(hardWired[0x144:], 0) // has no bits to switch
	tests := map[string]struct {
		config configSpace
		want   ACS
	}{
		"on":              {space(portRoot, &on), ACSOn},
		"off":             {space(portRoot, &off), ACSOff},
		"partly on":       {space(portRoot, &some), ACSOff},
		"hard-wired":      {hardWired, ACSOn},
		"absent":          {space(portRoot, nil), ACSAbsent},
		"loop":            {loop, ACSAbsent},
		"cut off":         {beyond, ACSAbsent},
		"conventional":    {make(configSpace, basicSize), ACSAbsent},
		"not root":        {space(portRoot, &on)[:headerSize], ACSUnknown},
		"basic only":      {space(portRoot, &on)[:basicSize], ACSUnknown},
		"not there":       {nil, ACSUnknown},
		"does not answer": {dead, ACSUnknown},
		"virtual":         {virtual, ACSOn},
	}
	for name, tt := range tests {
		if got := tt.config.acs(); got != tt.want {
			t.Errorf("%s: ACS %s, want %s", name, got, tt.want)
		}
	}
}

func TestCapabilityLoops(t *testing.T) {
	c := space(portEndpoint, nil)
	c[0x51] = 0x40
	if got := c.capability(0x05); got != 0 {
		t.Errorf("found MSI at %#x in a circle without it", got)
	}
	if got := c.capability(capPCIe); got != 0x50 {
		t.Errorf("PCI Express at %#x", got)
	}
	c[0x41] = 0x20 // into the header
	if got := c.capability(capPCIe); got != 0 {
		t.Errorf("PCI Express at %#x through the header", got)
	}
}

func FuzzConfigSpace(f *testing.F) {
	on := uint16(0x1d)
	f.Add([]byte(space(portRoot, &on)))
	f.Add([]byte(space(portEndpoint, nil)[:0x140]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := configSpace(data)
		for _, id := range []uint8{0, 1, 5, capPCIe, 0xff} {
			if off := c.capability(id); off != 0 && (off < headerSize || off >= basicSize || c[off] != id) {
				t.Errorf("capability %#x at %#x", id, off)
			}
		}
		for _, id := range []uint16{1, extACS, 0xffff} {
			if off := c.extended(id); off != 0 && (off < extStart || off >= extLimit || c.word(off) != id) {
				t.Errorf("extended capability %#x at %#x", id, off)
			}
		}
		c.acs()
		c.port()
		c.multifunction()
	})
}
