package acpi

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/internal/layout"
)

// Interrupt controller structures (ACPI 5.2.12).
const (
	madtLAPIC    = 0
	madtIOAPIC   = 1
	madtOverride = 2
	madtNMI      = 4
	madtX2APIC   = 9
	madtX2NMI    = 10

	madtRevision  = 5
	madtPCATCompt = 1 // there are two 8259 as well
	cpuEnabled    = 1
	ioapicID      = 0
	allCPUs       = 0xff
	allX2CPUs     = 0xffffffff
	nmiPin        = 1 // LINT1

	// firstX2APIC is the first APIC ID that needs the 32-bit structures.
	firstX2APIC = 255

	// MPS INTI flags.
	intConform       = 0
	intLevelHigh     = 1 | 3<<2
	ioapicGSIBase    = 0
	isaBus           = 0
	lengthOverride   = 10
	lengthX2APIC     = 16
	lengthLAPIC      = 8
	lengthIOAPIC     = 12
	lengthNMI        = 6
	lengthX2APICNMI  = 12
	reservedMADTByte = 0
)

// madt returns the multiple APIC description table.
func madt(c Config) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, layout.LAPIC)
	b = le.AppendUint32(b, madtPCATCompt)
	for id := range uint32(c.CPUs) {
		b = appendCPU(b, id)
	}
	b = append(b, madtIOAPIC, lengthIOAPIC, ioapicID, reservedMADTByte)
	b = le.AppendUint32(b, layout.IOAPIC)
	b = le.AppendUint32(b, ioapicGSIBase)
	// The timer needs no override: KVM's is wired to pin 0 of the I/O APIC, not to the pin
	// 2 that PCs have it on.
	b = appendOverride(b, layout.GSISCI, layout.GSISCI, intLevelHigh)
	b = append(b, madtNMI, lengthNMI, allCPUs, intConform, 0, nmiPin)
	if c.CPUs > firstX2APIC {
		b = append(b, madtX2NMI, lengthX2APICNMI, intConform, 0)
		b = le.AppendUint32(b, allX2CPUs)
		b = append(b, nmiPin, 0, 0, 0)
	}
	return table("APIC", madtRevision, b)
}

func appendCPU(b []byte, id uint32) []byte {
	le := binary.LittleEndian
	if id < firstX2APIC {
		b = append(b, madtLAPIC, lengthLAPIC, byte(id), byte(id))
		return le.AppendUint32(b, cpuEnabled)
	}
	b = append(b, madtX2APIC, lengthX2APIC, 0, 0)
	b = le.AppendUint32(b, id)
	b = le.AppendUint32(b, cpuEnabled)
	return le.AppendUint32(b, id)
}

// appendOverride says that an ISA interrupt is not identity-mapped, or not edge-triggered.
func appendOverride(b []byte, irq byte, gsi uint32, flags uint16) []byte {
	b = append(b, madtOverride, lengthOverride, isaBus, irq)
	b = binary.LittleEndian.AppendUint32(b, gsi)
	return binary.LittleEndian.AppendUint16(b, flags)
}
