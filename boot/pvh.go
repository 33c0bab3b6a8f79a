package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// struct hvm_start_info, version 1, with its module list and memory map behind it, all
// in one page (xen/interface/hvm/start_info.h).
const (
	hvmMagic      = 0x336ec578
	hvmVersion    = 1
	hvmModules    = 0x40 // offsets in the page
	hvmMemory     = 0x80
	hvmMemorySize = 24 // bytes of an entry
)

// writeStartInfo fills in the start info. PVH has no place for a random seed.
func writeStartInfo(mem *guestmem.Memory, p params) error {
	b, err := mem.Slice(layout.HVMStart, layout.PageSize)
	if err != nil {
		return fmt.Errorf("PVH start info at %#x: %w", layout.HVMStart, err)
	}
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b, hvmMagic)
	le.PutUint32(b[4:], hvmVersion)
	le.PutUint64(b[24:], layout.Cmdline)
	le.PutUint64(b[32:], p.rsdp)
	le.PutUint64(b[40:], layout.HVMStart+hvmMemory)
	le.PutUint32(b[48:], uint32(len(p.memory)))
	if p.initrd.Size > 0 {
		le.PutUint32(b[12:], 1)
		le.PutUint64(b[16:], layout.HVMStart+hvmModules)
		le.PutUint64(b[hvmModules:], p.initrd.Start)
		le.PutUint64(b[hvmModules+8:], p.initrd.Size)
	}
	for i, m := range p.memory {
		e := b[hvmMemory+i*hvmMemorySize:]
		le.PutUint64(e, m.Start)
		le.PutUint64(e[8:], m.Size)
		le.PutUint32(e[16:], uint32(m.Type))
	}
	return nil
}
