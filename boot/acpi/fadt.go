package acpi

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/internal/layout"
)

// FADT flags (ACPI table 5.10).
const (
	fadtWBINVD      = 1 << 0
	fadtProcC1      = 1 << 2
	fadtNoSleepKey  = 1 << 5 // no fixed sleep button; the power button's bit 4 is 0: it is fixed
	fadtNoFixedRTC  = 1 << 6 // no RTC wake-up in PM1
	fadtResetReg    = 1 << 10
	fadtHeadless    = 1 << 12
	bootArchLegacy  = 1 << 0 // user-visible devices on the ISA bus
	bootArchNoVGA   = 1 << 2
	bootArchNoRTC   = 1 << 5
	fadtSize        = 276
	fadtRevision    = 6
	noCState        = 0xffff // a latency too long to be used
	gasIO           = 1      // address space of a generic address structure
	accessByte      = 1
	accessWord      = 2
	pm1EventLen     = 4
	pm1ControlLen   = 2
	hypervisorIDOff = 268
)

// fadt returns the fixed ACPI description table (ACPI 5.2.9). It has no power management timer, which is
// optional: each read is an exit, and guests have KVM's clock.
func fadt(c Config, facs, dsdt uint64) []byte {
	var t [fadtSize]byte // offsets below are the specification's, from the header on
	le := binary.LittleEndian
	le.PutUint32(t[36:], uint32(facs))
	le.PutUint32(t[40:], uint32(dsdt))
	le.PutUint16(t[46:], layout.GSISCI)
	le.PutUint32(t[56:], layout.PortPM1Event)
	le.PutUint32(t[64:], layout.PortPM1Control)
	t[88], t[89] = pm1EventLen, pm1ControlLen
	le.PutUint16(t[96:], noCState)
	le.PutUint16(t[98:], noCState)
	le.PutUint16(t[109:], bootArch(c))
	le.PutUint32(t[112:], fadtWBINVD|fadtProcC1|fadtNoSleepKey|fadtNoFixedRTC|fadtResetReg|fadtHeadless)
	gas(t[116:], layout.PortReset, 1, accessByte)
	t[128] = layout.ResetValue
	// The DSDT may stand in both the 32-bit and the 64-bit field, the FACS only in one.
	le.PutUint64(t[140:], dsdt)
	gas(t[148:], layout.PortPM1Event, pm1EventLen, accessWord)
	gas(t[172:], layout.PortPM1Control, pm1ControlLen, accessWord)
	copy(t[hypervisorIDOff:], "stile")
	return table("FACP", fadtRevision, t[headerSize:])
}

func bootArch(c Config) uint16 {
	flags := uint16(bootArchNoVGA)
	if c.COM1 {
		flags |= bootArchLegacy
	}
	if !c.RTC {
		flags |= bootArchNoRTC
	}
	return flags
}

// gas writes a generic address structure for an I/O port of n bytes (ACPI 5.2.3.2).
func gas(b []byte, port uint64, n, access byte) {
	b[0], b[1], b[2], b[3] = gasIO, n*8, 0, access
	binary.LittleEndian.PutUint64(b[4:], port)
}
