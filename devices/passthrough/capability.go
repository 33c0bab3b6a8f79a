package passthrough

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/devices/pci"
)

// Capability IDs (linux/pci_regs.h).
const (
	capPM     = 0x01
	capVPD    = 0x03
	capMSI    = pci.CapMSI
	capVendor = pci.CapVendor
	capPCIe   = pci.CapExpress
	capMSIX   = pci.CapMSIX
	capAF     = 0x13
)

// Registers of capabilities, byte offsets within them.
const (
	pmControl     = 4
	pmStateMask   = 3
	pcieFlags     = 2
	pcieDevCap    = 4
	pcieDevCtl    = 8
	afCapability  = 3
	afControl     = 4
	msiControl    = 2
	msixControl   = 2
	msixTable     = 4
	msixPBA       = 8
	vendorLength  = 2
	pcieFLRCap    = 1 << 28
	pcieFLR       = 1 << 15
	afFLRCap      = 1 << 1
	afFLR         = 1 << 0
	afFLRByte     = afControl
	pcieFLRByte   = pcieDevCtl + 1
	pcieFLRBit    = pcieFLR >> 8
	pcieTypeShift = 4
	pcieSlot      = 1 << 8
	pcieVersion   = 15
	pcieLink      = 0x0c // link capabilities, control and status
	pcieLink2     = 0x2c // the second ones
	pcieLinkSize  = 8
)

const (
	headerSize  = 0x40
	extended    = 0x100
	capPointer  = pci.RegCapabilities
	headerBytes = 2 // of a capability: ID, next
	extHeader   = 4 // of an extended one
)

// capability is an entry of the device's own list.
type capability struct {
	id        uint16
	version   uint8 // of an extended one
	off, size int   // size is up to the next register of another, or less
	hide      bool  // from the guest
}

func (c capability) end() int { return c.off + c.size }

func get16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }
func get32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

// standardCapabilities walks the list of config space's first 256 bytes, of which cfg has at
// least the header. What is read is the device's, and may be anything: a list that leaves the
// space or comes back to itself ends there, which fault tells.
func standardCapabilities(cfg []byte) (list []capability, fault error) {
	limit := min(len(cfg), extended)
	if get16(cfg, pci.RegStatus)&statusCapabilities == 0 {
		return nil, nil
	}
	seen := make(map[int]bool)
	for at := int(cfg[capPointer] &^ 3); at != 0; at = int(cfg[at+1] &^ 3) {
		if at < headerSize || at+headerBytes > limit || seen[at] {
			fault = fmt.Errorf("the list of capabilities goes to %#x, which is no place for one or was seen before: cut off there", at)
			break
		}
		seen[at] = true
		list = append(list, capability{id: uint16(cfg[at]), off: at})
	}
	setExtents(list, limit)
	for i := range list {
		list[i].shape(cfg)
	}
	return list, fault
}

const statusCapabilities = 1 << 4

// setExtents gives each capability the bytes up to the next one.
func setExtents(list []capability, limit int) {
	for i := range list {
		end := limit
		for _, o := range list {
			if o.off > list[i].off {
				end = min(end, o.off)
			}
		}
		list[i].size = end - list[i].off
	}
}

// shape cuts a standard capability to its length, and hides those that have none that is
// known, lack room, or are not for guests.
func (c *capability) shape(cfg []byte) {
	need := 0
	switch c.id {
	case capPM, capVPD:
		need = 8
	case capAF:
		need = 6
	case capMSIX:
		need = 12
	case capMSI:
		if c.size >= msiControl+2 {
			need = msiLayout(get16(cfg, c.off+msiControl)).Size()
		}
	case capPCIe:
		if c.size >= pcieFlags+2 {
			flags := get16(cfg, c.off+pcieFlags)
			need = 0x3c
			if flags&15 < 2 {
				need = 0x14
			}
			need = min(need, max(c.size, 0x14))
			// A legacy endpoint has no place on a root bus (PCIe 5.0, 1.3.2.1): it is a conventional device there.
			c.hide = flags>>pcieTypeShift&15 == portLegacyEndpoint
		}
	case capVendor:
		if c.size > vendorLength {
			need = int(cfg[c.off+vendorLength])
		}
		c.hide = need <= vendorLength
	}
	c.hide = c.hide || need == 0 || need > c.size
	if need == 0 {
		need = foreignSize(uint8(c.id), cfg, c.off)
	}
	// One that is hidden takes no more of config space than is known to be its own: what follows are registers of the device.
	c.size = min(c.size, max(need, headerBytes))
}

// foreignSize returns the length of a standard capability that no guest is shown, as far as it is known: its header where it is not.
func foreignSize(id uint8, cfg []byte, at int) int {
	switch id {
	case 0x02, 0x07, 0x0d, 0x0e, 0x12: // AGP, PCI-X, bridge's subsystem, AGP 3, SATA
		return 8
	case 0x04: // slot numbering
		return 4
	case 0x14: // enhanced allocation: as many entries as it says, of as many words as each says
		size := 4
		for n := int(get8(cfg, at+2) & 0x3f); n > 0 && at+size < len(cfg); n-- {
			size += 4 + 4*int(get8(cfg, at+size)&7)
		}
		return size
	}
	return headerBytes
}

// get8 returns a byte, 0 beyond the end.
func get8(b []byte, off int) byte {
	if off >= len(b) {
		return 0
	}
	return b[off]
}

func msiLayout(control uint16) pci.MSILayout {
	return pci.MSILayout{Wide: control&(1<<7) != 0, Masks: control&(1<<8) != 0}
}

// hiddenExtended are extended capabilities that a guest is not shown: they concern other
// functions, addresses that only the host knows, or a fabric that the guest does not have.
var hiddenExtended = []uint16{
	0x0d, // access control services
	0x0e, // alternative routing IDs
	0x0f, // address translation services
	0x10, // SR-IOV
	0x11, // MR-IOV
	0x12, // multicast
	0x13, // page requests
	0x15, // resizable BARs
	0x1b, // PASID
	0x1d, // downstream port containment
	0x1f, // precision time measurement
	0x24, // resizable BARs of virtual functions
}

// hiddenSize returns how many bytes a hidden extended capability has, by the registers behind its header; what else lies before the
// next one are registers of the device.
func hiddenSize(id uint16, cfg []byte, at int) int {
	switch id {
	case 0x0d: // ACS, with one bit for each of up to 256 egress ports
		bits := 0
		if at+6 <= len(cfg) {
			bits = int(cfg[at+5])
		}
		return 8 + (bits+31)/32*4
	case 0x10, 0x11:
		return 0x40
	case 0x12:
		return 0x30
	case 0x13:
		return 0x10
	case 0x15, 0x24: // a pair of registers for each BAR, as the first says
		bars := 1
		if at+12 <= len(cfg) {
			bars = max(1, int(cfg[at+8]>>5))
		}
		return extHeader + 8*bars
	case 0x1d:
		return 0x5c
	case 0x1f:
		return 0x0c
	case 0x0e, 0x0f, 0x1b:
		return 8
	}
	return extHeader
}

// extendedCapabilities walks the list that begins at 0x100, as standardCapabilities does.
func extendedCapabilities(cfg []byte) (list []capability, fault error) {
	seen := make(map[int]bool)
	for at := extended; at != 0; {
		if at < extended || at+extHeader > len(cfg) || seen[at] {
			if at != extended {
				fault = fmt.Errorf("the list of extended capabilities goes to %#x, which is no place for one or was seen before: cut off there", at)
			}
			break
		}
		seen[at] = true
		head := get32(cfg, at)
		if head == 0 || head == 0xffffffff {
			break
		}
		id := uint16(head)
		list = append(list, capability{id: id, version: uint8(head >> 16 & 15), off: at, hide: id == 0 || slices.Contains(hiddenExtended, id)})
		at = int(head >> 20 &^ 3)
	}
	setExtents(list, len(cfg))
	for i := range list {
		if c := &list[i]; c.hide {
			c.size = min(c.size, hiddenSize(c.id, cfg, c.off))
		}
	}
	return list, fault
}
