package passthrough

import (
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/devices/pci"
)

// configMap says who answers config space: bits that are set in passed come from the device,
// the others from the emulation.
type configMap struct {
	size   int // bytes that the device has
	passed [pci.ConfigSize]byte
}

func (m *configMap) pass(from, to int) { m.fill(from, to, 0xff) }
func (m *configMap) own(from, to int)  { m.fill(from, to, 0) }

func (m *configMap) fill(from, to int, v byte) {
	for i := max(from, 0); i < min(to, m.size); i++ {
		m.passed[i] = v
	}
}

// touches reports whether any bit of n bytes from off on is the device's.
func (m *configMap) touches(off, n int) bool {
	for _, b := range m.passed[off : off+n] {
		if b != 0 {
			return true
		}
	}
	return false
}

// Header registers that package pci does not name.
const (
	regCardbus  = 0x28
	regPin      = pci.RegInterruptPin
	regMinGrant = 0x3e
)

// description is what a device's config space says.
type description struct {
	header pci.Header
	caps   []capability // standard ones, in the order of the list
	ext    []capability
	faults []error // oddities that were cut off
	// integrated says that the guest sees the endpoint as part of its root complex.
	integrated bool
}

var errDead = errors.New("its config space reads as ones: the device is switched off, has fallen off the bus or is dead")

// parse takes a device's config space apart: 256 or 4096 bytes, or what an emulated device has
// of them.
func parse(name string, cfg []byte) (*description, error) {
	if len(cfg) < headerSize {
		return nil, fmt.Errorf("%s: config space of %d bytes, a header has %d", name, len(cfg), headerSize)
	}
	// The kernel answers for the vendor of a virtual function, also when that is dead.
	if get16(cfg, pci.RegVendor) == 0xffff || cfg[pci.RegHeaderType] == 0xff {
		return nil, fmt.Errorf("%s: %w", name, errDead)
	}
	if kind := cfg[pci.RegHeaderType] & 0x7f; kind != 0 {
		return nil, fmt.Errorf("%s: a header of type %d: bridges cannot be passed through", name, kind)
	}
	class := get32(cfg, pci.RegRevision)
	l := &description{header: pci.Header{
		Name: name, Vendor: get16(cfg, pci.RegVendor), Device: get16(cfg, pci.RegDevice),
		SubVendor: get16(cfg, pci.RegSubVendor), SubDevice: get16(cfg, pci.RegSubDevice),
		Class: class >> 8, Revision: uint8(class), Pin: cfg[regPin],
	}}
	if l.header.Pin > 4 {
		l.header.Pin = 0
	}
	var fault error
	if l.caps, fault = standardCapabilities(cfg); fault != nil {
		l.faults = append(l.faults, fmt.Errorf("%s: %w", name, fault))
	}
	hideRepeated(l.caps)
	if c := l.find(capPCIe); c != nil {
		l.integrated = portType(get16(cfg, c.off+pcieFlags))>>pcieTypeShift&15 == portRootIntegrated
	}
	if l.find(capPCIe) != nil && len(cfg) > extended {
		if l.ext, fault = extendedCapabilities(cfg); fault != nil {
			l.faults = append(l.faults, fmt.Errorf("%s: %w", name, fault))
		}
	}
	return l, nil
}

// hideRepeated hides capabilities that only one of makes sense.
func hideRepeated(list []capability) {
	seen := make(map[uint16]bool)
	for i := range list {
		c := &list[i]
		if c.hide || c.id == capVendor {
			continue
		}
		c.hide = seen[c.id]
		seen[c.id] = true
	}
}

// find returns the first capability of an ID that the guest is shown, or nil.
func (l *description) find(id uint16) *capability {
	for i := range l.caps {
		if l.caps[i].id == id && !l.caps[i].hide {
			return &l.caps[i]
		}
	}
	return nil
}

// configMap returns who answers what. MSI and MSI-X are ours; of PCIe the type of port.
func (l *description) configMap(size int) *configMap {
	m := &configMap{size: min(size, pci.ConfigSize)}
	m.pass(pci.RegStatus, pci.RegStatus+2)
	m.passed[pci.RegStatus] &^= statusCapabilities
	m.pass(regCardbus, regCardbus+4)
	m.pass(regMinGrant, regMinGrant+2)
	m.pass(headerSize, m.size)
	for _, c := range l.caps {
		switch {
		case c.hide, c.id == capMSI, c.id == capMSIX:
			m.own(c.off, c.end())
		default:
			m.own(c.off, c.off+headerBytes)
		}
		if c.id == capPCIe && !c.hide {
			m.passed[c.off+pcieFlags] = 0
			m.passed[c.off+pcieFlags+1] &^= pcieSlot >> 8
			for _, link := range []int{pcieLink, pcieLink2} {
				if l.integrated { // with no port above there is no link
					m.own(c.off+link, min(c.off+link+pcieLinkSize, c.end()))
				}
			}
		}
	}
	if len(l.ext) == 0 {
		m.own(extended, m.size)
	}
	for _, c := range l.ext {
		if c.hide {
			m.own(c.off, c.end())
		} else {
			m.own(c.off, c.off+extHeader)
		}
	}
	return m
}

// Port types of PCIe endpoints (PCIe 5.0, 7.5.3.2).
const (
	portEndpoint       = 0
	portLegacyEndpoint = 1
	portRootIntegrated = 9
)

// portType is the type that the guest sees: on its root bus, with no port above, an endpoint
// is integrated into the root complex. A version 0, which some virtual functions have, does not exist: it is 1.
func portType(flags uint16) uint16 {
	kind := flags >> pcieTypeShift & 15
	if kind == portEndpoint {
		kind = portRootIntegrated
	}
	return max(flags&pcieVersion, 1) | kind<<pcieTypeShift
}
