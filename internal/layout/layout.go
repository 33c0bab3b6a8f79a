// Package layout is the guest's address map: every guest-physical address and port
// that two packages must agree on stands here and nowhere else.
//
//	0000_0000  640 KiB  RAM; boot structures below, see the Boot constants
//	000a_0000  384 KiB  hole, but ACPI tables at 000e_0000 (RAM, reserved in e820)
//	0010_0000  …        RAM up to LowRAMEnd
//	c000_0000  512 MiB  32-bit PCI MMIO window
//	e000_0000  256 MiB  ECAM (1 MiB per bus)
//	fec0_0000           I/O APIC; fee0_0000 local APIC; fffb_c000 KVM's own pages (Intel)
//	1_0000_0000  …      rest of RAM, then the 64-bit PCI MMIO window
package layout

const (
	// PageSize is the guest's and the host's base page size, in bytes.
	PageSize = 4096

	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
)

// Boot structures in low memory (guest-physical addresses).
const (
	GDT         = 0x0500 // 4 entries
	HVMStart    = 0x6000 // hvm_start_info, its module list and memory map (PVH)
	ZeroPage    = 0x7000 // struct boot_params, 4 KiB
	PageTables  = 0x9000 // PML4, PDPT, 4 page directories: 24 KiB, to 0xf000
	BootStack   = 0x8ff0
	Cmdline     = 0x20000
	CmdlineMax  = 0x10000 // bytes, with the final NUL
	LowRAMTop   = 0x9fc00 // end of conventional memory; what follows is reserved (EBDA)
	ACPI        = 0xe0000 // RSDP first, then the tables
	ACPISize    = 0x20000
	HighRAM     = 0x100000
	KernelEntry = 0x1000000 // where the 64-bit entry of a relocatable bzImage is loaded by default
)

// The 32-bit hole below 4 GiB and what is in it.
const (
	LowRAMEnd  = 0xc0000000 // RAM below 4 GiB ends here at most
	MMIO32     = 0xc0000000
	MMIO32Size = 0x20000000
	ECAM       = 0xe0000000
	ECAMBuses  = 1
	ECAMSize   = ECAMBuses << 20
	IOAPIC     = 0xfec00000
	LAPIC      = 0xfee00000
	// KVM on Intel needs a page for the identity map and three for the TSS; both are
	// reserved in e820.
	IdentityMap = 0xfffbc000
	TSS         = 0xfffbd000
	HighRAMBase = 0x100000000
)

// MMIO64Align aligns the base of the 64-bit PCI MMIO window, in bytes.
const MMIO64Align = GiB

// I/O ports.
const (
	PortDebugExit  = 0xf4 // 1 byte: the VM ends with this value
	PortRTC        = 0x70
	PortI8042Data  = 0x60
	PortI8042Cmd   = 0x64
	PortCOM1       = 0x3f8
	PortPVPanic    = 0x505
	PortPM1Event   = 0x600 // 4 bytes: status, enable
	PortPM1Control = 0x604 // 2 bytes
	PortReset      = 0x610 // 1 byte: FADT's reset register
	PortPMBlock    = 0x600
	PortPMBlockLen = 0x20
	PortPCIAddress = 0xcf8
	PortPCIData    = 0xcfc
	// The PCI I/O window.
	PIOWindow     = 0x1000
	PIOWindowSize = 0xf000
)

// ResetValue is what the guest writes to PortReset to reboot.
const ResetValue = 0x01

// Sleep types that the DSDT gives for S5, shifted into PM1 control bits 12:10.
const SleepTypeS5 = 5

// Global system interrupts.
const (
	GSICOM1   = 4
	GSIRTC    = 8
	GSISCI    = 9
	GSIINTx   = 16 // PCI INTA#–INTD# swizzle over 4 lines from here
	INTxLines = 4
	GSIPins   = 24 // pins of the I/O APIC; message-signalled GSIs start here
)

// Range is a span of guest-physical addresses.
type Range struct {
	Start uint64 // guest-physical, page-aligned
	Size  uint64 // bytes, page-aligned
}

// End returns the first address behind the range.
func (r Range) End() uint64 { return r.Start + r.Size }

// RAM splits size bytes of guest RAM around the 32-bit hole: one range from 0, and
// one from 4 GiB where size exceeds LowRAMEnd.
func RAM(size uint64) []Range {
	if size <= LowRAMEnd {
		return []Range{{0, size}}
	}
	return []Range{{0, LowRAMEnd}, {HighRAMBase, size - LowRAMEnd}}
}

// ramAlign is the size of the pieces in which RAM is placed around reserved addresses: that of
// large pages.
const ramAlign = 2 * MiB

// RAMWithin is RAM for addresses of which only some can be used: what lies outside of usable,
// which ascends, is left out. rest is how many bytes found no place.
func RAMWithin(size uint64, usable []Range) (ranges []Range, rest uint64) {
	for _, area := range []Range{{0, LowRAMEnd}, {HighRAMBase, maxAddress - HighRAMBase}} {
		for _, u := range usable {
			start := (max(area.Start, u.Start) + ramAlign - 1) &^ (ramAlign - 1)
			end := min(area.End(), u.End()) &^ (ramAlign - 1)
			if start >= end || size == 0 {
				continue
			}
			r := Range{start, min(size, end-start)}
			ranges, size = append(ranges, r), size-r.Size
		}
	}
	return ranges, size
}

// maxAddress ends guest-physical addresses: CPUs have up to 52 bits of them.
const maxAddress = 1 << 52

// MMIO64 returns the base of the 64-bit PCI window behind RAM of the given size (bytes).
func MMIO64(ram uint64) uint64 { return MMIO64Behind(RAM(ram), 0) }

// MMIO64Behind returns the base of the 64-bit PCI window behind ranges of RAM, ascending, for
// BARs of up to largest bytes, a power of two.
func MMIO64Behind(ram []Range, largest uint64) uint64 {
	align := max(MMIO64Align, largest)
	end := max(ram[len(ram)-1].End(), HighRAMBase)
	return (end + align - 1) &^ (align - 1)
}
