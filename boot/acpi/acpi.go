package acpi

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/layout"
)

// MaxCPUs is the most CPUs that the tables describe.
const MaxCPUs = 1024

// Config is what the tables describe beyond what layout fixes.
type Config struct {
	CPUs    int          // 1 to MaxCPUs; CPU n has APIC ID n and processor UID n
	MMIO64  layout.Range // 64-bit PCI window; Size 0: none
	COM1    bool         // a 16550A at layout.PortCOM1
	RTC     bool         // an MC146818 at layout.PortRTC
	PVPanic bool         // a pvpanic device at layout.PortPVPanic
}

func (c Config) validate() error {
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return fmt.Errorf("ACPI tables for %d CPUs: 1 to %d can be described", c.CPUs, MaxCPUs)
	}
	if c.MMIO64.Size > 0 && (c.MMIO64.Start < layout.HighRAMBase || c.MMIO64.End() < c.MMIO64.Start) {
		return fmt.Errorf("64-bit PCI window at %#x, %#x bytes, is not above 4 GiB", c.MMIO64.Start, c.MMIO64.Size)
	}
	return nil
}

// Build returns the tables as they stand in guest memory from addr on, which must be
// layout.PageSize-aligned: the RSDP first. They have at most layout.ACPISize bytes.
func Build(addr uint64, c Config) ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if addr%layout.PageSize != 0 {
		return nil, fmt.Errorf("ACPI tables at %#x: not at the start of a page", addr)
	}
	b := &block{addr: addr}
	b.reserve(rsdpSize)
	facsAddr := b.add(facs())
	dsdtAddr := b.add(dsdt(c))
	entries := []uint64{
		b.add(fadt(c, facsAddr, dsdtAddr)),
		b.add(madt(c)),
		b.add(mcfg()),
	}
	copy(b.bytes, rsdp(b.add(xsdt(entries))))
	if len(b.bytes) > layout.ACPISize {
		return nil, fmt.Errorf("ACPI tables for %d CPUs take %d bytes, there is room for %d: use fewer CPUs", c.CPUs, len(b.bytes), layout.ACPISize)
	}
	return b.bytes, nil
}

// tableAlign is what the FACS needs, in bytes; the other tables don't mind.
const tableAlign = 64

// block is a run of tables, growing.
type block struct {
	addr  uint64 // guest-physical, of bytes[0]
	bytes []byte
}

func (b *block) reserve(n int) { b.bytes = append(b.bytes, make([]byte, n)...) }

// add appends a table and returns its guest-physical address.
func (b *block) add(table []byte) uint64 {
	if over := len(b.bytes) % tableAlign; over != 0 {
		b.reserve(tableAlign - over)
	}
	at := b.addr + uint64(len(b.bytes))
	b.bytes = append(b.bytes, table...)
	return at
}
