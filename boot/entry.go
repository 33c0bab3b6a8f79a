package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// Mode is the mode in which vCPU 0 starts.
type Mode int

const (
	// Long64 is 64-bit mode with the first 4 GiB mapped one to one.
	Long64 Mode = iota + 1
	// Protected32 is 32-bit protected mode without paging.
	Protected32
)

func (m Mode) String() string {
	switch m {
	case Long64:
		return "64-bit"
	case Protected32:
		return "PVH"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// SegmentRegister is a segment register with its hidden part; field names are those of
// KVM's struct kvm_segment.
type SegmentRegister struct {
	Base     uint64
	Limit    uint32 // last byte
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8
	L        uint8
	G        uint8
	AVL      uint8
}

// DescriptorTable is GDTR or IDTR.
type DescriptorTable struct {
	Base  uint64
	Limit uint16 // last byte
}

// Entry is the state in which vCPU 0 has to start. General registers that are not
// listed are 0, and so are LDTR and debug registers.
type Entry struct {
	Mode Mode

	RIP    uint64
	RSP    uint64
	RSI    uint64 // Long64: the zero page
	RBX    uint64 // Protected32: hvm_start_info
	RFLAGS uint64

	CR0, CR3, CR4 uint64
	EFER          uint64

	GDT, IDT DescriptorTable
	CS       SegmentRegister
	Data     SegmentRegister // DS, ES, FS, GS and SS
	TR       SegmentRegister

	Kernel Span // what the kernel takes until it manages memory itself
	Initrd Span // Size 0: none
}

// Span is a span of guest-physical addresses of any alignment.
type Span struct {
	Start uint64 // guest-physical
	Size  uint64 // bytes
}

// End returns the first address behind the span.
func (s Span) End() uint64 { return s.Start + s.Size }

// Control register bits (Intel SDM volume 3, 2.5) and EFER's (2.2.1).
const (
	cr0PE, cr0MP, cr0ET, cr0NE = 1 << 0, 1 << 1, 1 << 4, 1 << 5
	cr0WP, cr0AM, cr0PG        = 1 << 16, 1 << 18, 1 << 31
	cr4PAE                     = 1 << 5
	eferLME, eferLMA           = 1 << 8, 1 << 10
	rflagsOne                  = 1 << 1 // always set
)

// Selectors of the boot protocol, __BOOT_CS and __BOOT_DS, and the descriptors behind
// them: flat, 4 GiB, ring 0.
const (
	bootCS = 0x10
	bootDS = 0x18

	descCode64 = 0x00af9b000000ffff
	descCode32 = 0x00cf9b000000ffff
	descData   = 0x00cf93000000ffff
	gdtEntries = 4
	gdtSize    = gdtEntries * 8
)

// Segment types (Intel SDM volume 3, 3.4.5.1 and 3.5).
const (
	typeCode = 0xb // execute, read, accessed
	typeData = 0x3 // read, write, accessed
	typeTSS  = 0xb // 32- or 64-bit, busy
)

// common returns the part of the state that both modes share.
func common() Entry {
	return Entry{
		RFLAGS: rflagsOne,
		RSP:    layout.BootStack,
		GDT:    DescriptorTable{layout.GDT, gdtSize - 1},
		Data:   SegmentRegister{Limit: 0xffffffff, Selector: bootDS, Type: typeData, Present: 1, DB: 1, S: 1, G: 1},
		// VM entry wants a busy TSS in TR, even an unused one (SDM 27.3.1.2).
		TR: SegmentRegister{Limit: 0x67, Type: typeTSS, Present: 1},
	}
}

// long64 writes GDT and page tables and returns the state of the 64-bit entry at rip.
func long64(mem *guestmem.Memory, rip uint64) (Entry, error) {
	if err := writeGDT(mem, descCode64); err != nil {
		return Entry{}, err
	}
	if err := writePageTables(mem); err != nil {
		return Entry{}, err
	}
	e := common()
	e.Mode = Long64
	e.RIP, e.RSI = rip, layout.ZeroPage
	e.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0AM | cr0PG
	e.CR3, e.CR4 = layout.PageTables, cr4PAE
	e.EFER = eferLME | eferLMA
	e.CS = SegmentRegister{Limit: 0xffffffff, Selector: bootCS, Type: typeCode, Present: 1, S: 1, L: 1, G: 1}
	return e, nil
}

// protected32 writes the GDT and returns the state of the PVH entry at rip: of the
// control registers only CR0.PE is set (Xen, docs/misc/pvh.pandoc).
func protected32(mem *guestmem.Memory, rip uint64) (Entry, error) {
	if err := writeGDT(mem, descCode32); err != nil {
		return Entry{}, err
	}
	e := common()
	e.Mode = Protected32
	e.RIP, e.RBX = rip, layout.HVMStart
	e.CR0 = cr0PE | cr0ET
	e.CS = SegmentRegister{Limit: 0xffffffff, Selector: bootCS, Type: typeCode, Present: 1, DB: 1, S: 1, G: 1}
	return e, nil
}

func writeGDT(mem *guestmem.Memory, code uint64) error {
	b, err := mem.Slice(layout.GDT, gdtSize)
	if err != nil {
		return fmt.Errorf("GDT at %#x: %w", layout.GDT, err)
	}
	clear(b)
	binary.LittleEndian.PutUint64(b[bootCS:], code)
	binary.LittleEndian.PutUint64(b[bootDS:], descData)
	return nil
}

// Page table entries (Intel SDM volume 3, 4.5).
const (
	ptePresent = 1 << 0
	pteWrite   = 1 << 1
	pteLarge   = 1 << 7

	pageTablePages = 6 // PML4, PDPT, 4 page directories
	largePage      = 2 * layout.MiB
)

// writePageTables maps the first 4 GiB one to one with 2 MiB pages, which every CPU has.
func writePageTables(mem *guestmem.Memory) error {
	b, err := mem.Slice(layout.PageTables, pageTablePages*layout.PageSize)
	if err != nil {
		return fmt.Errorf("page tables at %#x: %w", layout.PageTables, err)
	}
	clear(b)
	le := binary.LittleEndian
	pdpt, dirs := b[layout.PageSize:], b[2*layout.PageSize:]
	le.PutUint64(b, layout.PageTables+layout.PageSize|ptePresent|pteWrite)
	for i := range uint64(4) {
		le.PutUint64(pdpt[i*8:], layout.PageTables+(2+i)*layout.PageSize|ptePresent|pteWrite)
	}
	for i := range uint64(max4GiB / largePage) {
		le.PutUint64(dirs[i*8:], i*largePage|ptePresent|pteWrite|pteLarge)
	}
	return nil
}
