package hostpci

import "encoding/binary"

// configSpace is a copy of a function's configuration space, of any length: 64 bytes
// without root, 256 for conventional PCI, 4096 for PCI Express. Reads beyond it, and
// lists that lead there or round in circles, yield nothing.
type configSpace []byte

const (
	regStatus       = 0x06
	regHeaderType   = 0x0e
	regCapabilities = 0x34
	statusHasList   = 0x10

	capPCIe      = 0x10
	extACS       = 0x000d
	extStart     = 0x100
	extLimit     = 0x1000
	basicSize    = 0x100
	headerSize   = 0x40
	multiFuncBit = 0x80
)

func (c configSpace) word(off int) uint16 {
	if off < 0 || off+2 > len(c) {
		return 0
	}
	return binary.LittleEndian.Uint16(c[off:])
}

func (c configSpace) long(off int) uint32 {
	if off < 0 || off+4 > len(c) {
		return 0
	}
	return binary.LittleEndian.Uint32(c[off:])
}

// alive tells whether the function answered: reads of one that is gone, or asleep too
// deeply, give all ones. The numbers of a virtual function always do (PCIe 5.0, 9.3.4.1.1).
func (c configSpace) alive() bool { return len(c) >= headerSize && c[regHeaderType] != 0xff }

func (c configSpace) multifunction() bool {
	return c.alive() && c[regHeaderType]&multiFuncBit != 0
}

// capability returns the offset of a capability, 0 if there is none.
func (c configSpace) capability(id uint8) int {
	if !c.alive() || c.word(regStatus)&statusHasList == 0 {
		return 0
	}
	// 48 capabilities of 4 bytes fill the room there is; more steps are a circle.
	off := int(c[regCapabilities]) &^ 3
	for range (basicSize - headerSize) / 4 {
		if off < headerSize || off+2 > min(len(c), basicSize) {
			return 0
		}
		if c[off] == id {
			return off
		}
		off = int(c[off+1]) &^ 3
	}
	return 0
}

// extended returns the offset of an extended capability, 0 if there is none.
func (c configSpace) extended(id uint16) int {
	off := extStart
	for range (extLimit - extStart) / 4 {
		if off < extStart || off+4 > min(len(c), extLimit) {
			return 0
		}
		head := c.long(off)
		if head == 0 || head == ^uint32(0) {
			return 0
		}
		if uint16(head) == id {
			return off
		}
		off = int(head>>20) &^ 3
	}
	return 0
}

// portType is what kind of PCI Express function it is (PCIe 6.0, 7.5.3.2).
type portType uint8

const (
	portEndpoint   portType = 0x0
	portRoot       portType = 0x4
	portDownstream portType = 0x6
	portToPCI      portType = 0x7 // PCIe to conventional PCI
	notExpress     portType = 0xff
)

func (c configSpace) port() portType {
	off := c.capability(capPCIe)
	if off == 0 || off+4 > len(c) {
		return notExpress
	}
	return portType(c.word(off+2) >> 4 & 0xf)
}

// ACS bits (PCIe 6.0, 7.7.11), the same in the capability and the control register.
const (
	acsSourceValidation   = 0x01
	acsRequestRedirect    = 0x04
	acsCompletionRedirect = 0x08
	acsUpstreamForwarding = 0x10

	// acsIsolates are the bits that Linux asks for before it puts functions into
	// groups of their own.
	acsIsolates = acsSourceValidation | acsRequestRedirect | acsCompletionRedirect | acsUpstreamForwarding
)

// ACS says how far Access Control Services keep a function from reaching others
// without the IOMMU.
type ACS string

const (
	ACSUnknown ACS = "unknown" // the configuration space could not be read
	ACSAbsent  ACS = "absent"
	ACSOff     ACS = "off" // there, and not all of it is switched on
	ACSOn      ACS = "on"
)

// acs follows the kernel's pci_acs_flags_enabled: what the capability lacks is hard-wired.
func (c configSpace) acs() ACS {
	if !c.alive() {
		return ACSUnknown
	}
	express := c.capability(capPCIe) != 0
	if len(c) <= basicSize && (express || len(c) < basicSize) {
		return ACSUnknown
	}
	off := c.extended(extACS)
	if !express || off == 0 || off+8 > len(c) {
		return ACSAbsent
	}
	wanted := c.word(off+4) & acsIsolates
	if c.word(off+6)&wanted != wanted {
		return ACSOff
	}
	return ACSOn
}
