package pci

import "encoding/binary"

// config is the bytes of a function's config space with what the guest may change of them.
type config struct {
	data  [ConfigSize]byte
	write [ConfigSize]byte // bits that a write sets
	clear [ConfigSize]byte // bits that writing 1 clears
}

// store applies a guest write. off+len(p) is within the space.
func (c *config) store(off int, p []byte) {
	for i, v := range p {
		at := off + i
		c.data[at] = (c.data[at]&^c.write[at] | v&c.write[at]) &^ (v & c.clear[at])
	}
}

func (c *config) get16(off int) uint16    { return binary.LittleEndian.Uint16(c.data[off:]) }
func (c *config) get32(off int) uint32    { return binary.LittleEndian.Uint32(c.data[off:]) }
func (c *config) put16(off int, v uint16) { binary.LittleEndian.PutUint16(c.data[off:], v) }
func (c *config) put32(off int, v uint32) { binary.LittleEndian.PutUint32(c.data[off:], v) }

func (c *config) mask16(off int, v uint16) { binary.LittleEndian.PutUint16(c.write[off:], v) }
func (c *config) mask32(off int, v uint32) { binary.LittleEndian.PutUint32(c.write[off:], v) }
