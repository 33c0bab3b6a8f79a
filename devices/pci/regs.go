package pci

// Config space registers (PCI 3.0, 6.1), byte offsets.
const (
	RegVendor        = 0x00
	RegDevice        = 0x02
	RegCommand       = 0x04
	RegStatus        = 0x06
	RegRevision      = 0x08
	RegClass         = 0x09 // 3 bytes: interface, subclass, class
	RegCacheLine     = 0x0c
	RegHeaderType    = 0x0e
	RegBAR0          = 0x10
	RegSubVendor     = 0x2c
	RegSubDevice     = 0x2e
	RegROM           = 0x30
	RegCapabilities  = 0x34
	RegInterruptLine = 0x3c
	RegInterruptPin  = 0x3d

	firstCap    = 0x40
	firstExtCap = 0x100

	// ConfigSize is the bytes of one function's config space.
	ConfigSize = 4096
	// MaxBARs is the number of BAR registers of a type 0 header.
	MaxBARs = 6
)

// COMMAND and STATUS bits.
const (
	CommandIO          = 1 << 0
	CommandMemory      = 1 << 1
	CommandMaster      = 1 << 2
	commandParity      = 1 << 6
	commandSERR        = 1 << 8
	CommandINTxDisable = 1 << 10

	statusInterrupt    = 1 << 3
	statusCapabilities = 1 << 4

	headerMultiFunction = 0x80
)

// Capability IDs (linux/pci_regs.h).
const (
	CapMSI     = 0x05
	CapVendor  = 0x09
	CapExpress = 0x10
	CapMSIX    = 0x11
)

// BAR register bits.
const (
	barIO       = 1
	bar64       = 4
	barPrefetch = 8
	romEnable   = 1
)
