package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// Offsets in struct boot_params, the zero page (asm/bootparam.h), besides the setup
// header's.
const (
	zpRSDP           = 0x070
	zpExtRamdisk     = 0x0c0
	zpExtRamdiskSize = 0x0c4
	zpExtCmdline     = 0x0c8
	zpE820Entries    = 0x1e8
	zpE820           = 0x2d0
	e820EntrySize    = 20

	loaderUndefined = 0xff // type_of_loader of a loader without a number
	zpVersion       = 0x020f
)

// setup_data of type SETUP_RNG_SEED: next, type and length, then the seed.
const (
	setupRNGSeed    = 9
	setupDataHeader = 16
	maxSeed         = 1024 // bytes
)

// params is what the guest is told, in either protocol.
type params struct {
	cmdline string
	initrd  Span
	memory  []MapEntry
	rsdp    uint64 // guest-physical, 0: none
	seed    []byte
}

// writeZeroPage fills in struct boot_params. Everything that is not set is zero: no
// screen, no disks, no EFI.
func writeZeroPage(mem *guestmem.Memory, k *Kernel, p params) error {
	b, err := mem.Slice(layout.ZeroPage, layout.PageSize)
	if err != nil {
		return fmt.Errorf("zero page at %#x: %w", layout.ZeroPage, err)
	}
	clear(b)
	k.writeHeader(b)
	le := binary.LittleEndian
	le.PutUint32(b[hdrCmdlinePtr:], layout.Cmdline)
	le.PutUint32(b[hdrRamdiskImage:], uint32(p.initrd.Start))
	le.PutUint32(b[hdrRamdiskSize:], uint32(p.initrd.Size))
	le.PutUint32(b[zpExtRamdisk:], uint32(p.initrd.Start>>32))
	le.PutUint32(b[zpExtRamdiskSize:], uint32(p.initrd.Size>>32))
	le.PutUint32(b[zpExtCmdline:], layout.Cmdline>>32)
	le.PutUint64(b[zpRSDP:], p.rsdp)
	b[zpE820Entries] = byte(len(p.memory))
	for i, m := range p.memory {
		e := b[zpE820+i*e820EntrySize:]
		le.PutUint64(e, m.Start)
		le.PutUint64(e[8:], m.Size)
		le.PutUint32(e[16:], uint32(m.Type))
	}
	if len(p.seed) == 0 {
		return nil
	}
	le.PutUint64(b[hdrSetupData:], layout.HVMStart)
	return writeSeed(mem, p.seed)
}

// writeHeader puts in the setup header: the bzImage's own, or one as a recent Linux has
// it. The flag that a bzImage's stub sets once it has randomised addresses is off.
func (k *Kernel) writeHeader(b []byte) {
	le := binary.LittleEndian
	if k.bz != nil {
		copy(b[hdrSetupSects:hdrEnd], k.bz.header[:])
	} else {
		le.PutUint16(b[hdrBootFlag:], bootFlag)
		copy(b[hdrMagic:], hdrHdrS)
		le.PutUint16(b[hdrVersion:], zpVersion)
		le.PutUint32(b[hdrInitrdAddrMax:], defaultInitrdMax)
		le.PutUint32(b[hdrAlignment:], largePage)
		le.PutUint16(b[hdrXLoadFlags:], xlfKernel64)
		le.PutUint32(b[hdrCmdlineSize:], defaultCmdline)
	}
	b[hdrTypeOfLoader] = loaderUndefined
	b[hdrLoadFlags] = b[hdrLoadFlags]&^kaslrFlag | loadedHigh
	le.PutUint64(b[hdrSetupData:], 0)
}

// writeSeed puts the seed where PVH has its start info, which is not in use beside a
// zero page.
func writeSeed(mem *guestmem.Memory, seed []byte) error {
	b, err := mem.Slice(layout.HVMStart, setupDataHeader+uint64(len(seed)))
	if err != nil {
		return fmt.Errorf("random seed at %#x: %w", layout.HVMStart, err)
	}
	binary.LittleEndian.PutUint64(b, 0)
	binary.LittleEndian.PutUint32(b[8:], setupRNGSeed)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(seed)))
	copy(b[setupDataHeader:], seed)
	return nil
}
