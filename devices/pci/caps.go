package pci

import "fmt"

// AddCapability appends a capability with the given body, the bytes behind its two-byte
// header. writable masks the bits of body that the guest may write, nil for none. It
// returns the capability's offset in config space.
func (f *Function) AddCapability(id uint8, body, writable []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.nextCap
	return at, f.addCapability(at, id, body, writable)
}

// AddCapabilityAt is AddCapability at an offset of the caller's choice, a multiple of 4. The
// list has the order of the calls. The caller sees to it that capabilities do not overlap.
func (f *Function) AddCapabilityAt(at int, id uint8, body, writable []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addCapability(at, id, body, writable)
}

func (f *Function) addCapability(at int, id uint8, body, writable []byte) error {
	end := at + 2 + len(body)
	if at < firstCap || at%4 != 0 || end > firstExtCap || len(writable) > len(body) {
		return fmt.Errorf("pci: %s: no room for capability %#x of %d bytes at %#x", f.name, id, 2+len(body), at)
	}
	c := &f.cfg
	c.data[f.lastCap] = byte(at)
	c.data[at] = id
	copy(c.data[at+2:], body)
	copy(c.write[at+2:], writable)
	c.data[RegStatus] |= statusCapabilities
	f.lastCap = at + 1
	f.express = f.express || id == CapExpress
	f.nextCap = max(f.nextCap, (end+3)&^3)
	return nil
}

// AddExtCapability appends a PCI Express extended capability (PCIe 5.0, 7.6.3); body is
// what follows its four-byte header.
func (f *Function) AddExtCapability(id uint16, version uint8, body, writable []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.nextExt
	return at, f.addExtCapability(at, id, version, body, writable)
}

// AddExtCapabilityAt is AddExtCapability at an offset of the caller's choice, a multiple of 4.
// The list has the order of the calls, and begins at 0x100. The caller sees to it that
// capabilities do not overlap.
func (f *Function) AddExtCapabilityAt(at int, id uint16, version uint8, body, writable []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addExtCapability(at, id, version, body, writable)
}

func (f *Function) addExtCapability(at int, id uint16, version uint8, body, writable []byte) error {
	end := at + 4 + len(body)
	if at < firstExtCap || at%4 != 0 || end > ConfigSize || len(writable) > len(body) || version > 15 || f.lastExt == 0 && at != firstExtCap {
		return fmt.Errorf("pci: %s: no room for extended capability %#x of %d bytes at %#x", f.name, id, 4+len(body), at)
	}
	c := &f.cfg
	if f.lastExt != 0 {
		c.put32(f.lastExt, c.get32(f.lastExt)|uint32(at)<<20)
	}
	c.put32(at, uint32(id)|uint32(version)<<16)
	copy(c.data[at+4:], body)
	copy(c.write[at+4:], writable)
	f.lastExt, f.express = at, true
	f.nextExt = max(f.nextExt, (end+3)&^3)
	return nil
}
