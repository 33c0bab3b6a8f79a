package pci

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/stile-vmm/stile/internal/layout"
)

// ecam is the memory-mapped config space: 4 KiB per function (PCIe 5.0, 7.2.2).
type ecam struct{ root *Root }

func (e *ecam) Read(off uint64, p []byte) {
	for len(p) > 0 {
		reg := int(off % ConfigSize)
		n := min(len(p), ConfigSize-reg)
		if f := e.root.function(uint32(off / ConfigSize)); f != nil {
			f.ReadConfig(reg, p[:n])
		} else {
			fill(p[:n], 0xff)
		}
		p, off = p[n:], off+uint64(n)
	}
}

func (e *ecam) Write(off uint64, p []byte) {
	for len(p) > 0 {
		reg := int(off % ConfigSize)
		n := min(len(p), ConfigSize-reg)
		if f := e.root.function(uint32(off / ConfigSize)); f != nil {
			f.WriteConfig(reg, p[:n])
		}
		p, off = p[n:], off+uint64(n)
	}
}

// configPorts is config mechanism 1 (PCI 3.0, 3.2.2.3.2): an address register of 32 bits
// at CF8, which takes nothing but 32-bit accesses, and a window of four bytes at CFC.
type configPorts struct {
	root    *Root
	address atomic.Uint32
}

const (
	dataPorts     = layout.PortPCIData - layout.PortPCIAddress
	addressEnable = 1 << 31
)

func (c *configPorts) Read(off uint64, p []byte) {
	fill(p, 0xff)
	if off == 0 && len(p) == 4 {
		binary.LittleEndian.PutUint32(p, c.address.Load())
		return
	}
	if f, reg := c.target(off, len(p)); f != nil {
		f.ReadConfig(reg, p)
	}
}

func (c *configPorts) Write(off uint64, p []byte) {
	if off == 0 && len(p) == 4 {
		c.address.Store(binary.LittleEndian.Uint32(p) &^ 0x7f000003)
		return
	}
	if f, reg := c.target(off, len(p)); f != nil {
		f.WriteConfig(reg, p)
	}
}

func (c *configPorts) target(off uint64, n int) (*Function, int) {
	a := c.address.Load()
	if off < dataPorts || a&addressEnable == 0 || off+uint64(n) > dataPorts+4 {
		return nil, 0
	}
	return c.root.function(a >> 8 & 0xffff), int(a&0xfc) + int(off-dataPorts)
}
