package pci

import "fmt"

// AddCapability appends a capability with the given body, the bytes behind its two-byte
// header. writable masks the bits of body that the guest may write, nil for none. It
// returns the capability's offset in config space.
func (f *Function) AddCapability(id uint8, body, writable []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, end := f.nextCap, f.nextCap+2+len(body)
	if end > firstExtCap || len(writable) > len(body) {
		return 0, fmt.Errorf("pci: %s: no room for capability %#x of %d bytes at %#x", f.name, id, 2+len(body), at)
	}
	c := &f.cfg
	c.data[f.lastCap] = byte(at)
	c.data[at] = id
	copy(c.data[at+2:], body)
	copy(c.write[at+2:], writable)
	c.data[RegStatus] |= statusCapabilities
	f.lastCap = at + 1
	f.express = f.express || id == CapExpress
	f.nextCap = (end + 3) &^ 3
	return at, nil
}

// AddExtCapability appends a PCI Express extended capability (PCIe 5.0, 7.6.3); body is
// what follows its four-byte header.
func (f *Function) AddExtCapability(id uint16, version uint8, body, writable []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, end := f.nextExt, f.nextExt+4+len(body)
	if end > ConfigSize || len(writable) > len(body) || version > 15 {
		return 0, fmt.Errorf("pci: %s: no room for extended capability %#x of %d bytes at %#x", f.name, id, 4+len(body), at)
	}
	c := &f.cfg
	if f.lastExt != 0 {
		c.put32(f.lastExt, c.get32(f.lastExt)|uint32(at)<<20)
	}
	c.put32(at, uint32(id)|uint32(version)<<16)
	copy(c.data[at+4:], body)
	copy(c.write[at+4:], writable)
	f.lastExt, f.express = at, true
	f.nextExt = (end + 3) &^ 3
	return at, nil
}
