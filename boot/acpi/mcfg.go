package acpi

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/internal/layout"
)

// mcfg returns the table that places PCI's memory-mapped configuration space (PCI
// firmware specification 4.1.2): one segment, from bus 0.
func mcfg() []byte {
	le := binary.LittleEndian
	b := make([]byte, 8, 24)
	b = le.AppendUint64(b, layout.ECAM)
	b = le.AppendUint16(b, 0)
	b = append(b, 0, layout.ECAMBuses-1)
	b = le.AppendUint32(b, 0)
	return table("MCFG", 1, b)
}
