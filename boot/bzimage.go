package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/stile-vmm/stile/internal/layout"
)

// Offsets of the setup header in a bzImage, and in the zero page: both count from the
// start of the boot sector (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel
// Header").
const (
	hdrSetupSects    = 0x1f1
	hdrSysSize       = 0x1f4 // 16-byte units
	hdrBootFlag      = 0x1fe
	hdrJump          = 0x201 // the header ends at 0x202 + this byte
	hdrMagic         = 0x202
	hdrVersion       = 0x206
	hdrTypeOfLoader  = 0x210
	hdrLoadFlags     = 0x211
	hdrRamdiskImage  = 0x218
	hdrRamdiskSize   = 0x21c
	hdrCmdlinePtr    = 0x228
	hdrInitrdAddrMax = 0x22c
	hdrAlignment     = 0x230
	hdrRelocatable   = 0x234
	hdrXLoadFlags    = 0x236
	hdrCmdlineSize   = 0x238
	hdrPayloadOffset = 0x248
	hdrPayloadLength = 0x24c
	hdrSetupData     = 0x250
	hdrPrefAddress   = 0x258
	hdrInitSize      = 0x260
	hdrEnd           = 0x290 // of the room that the zero page has for it
	hdrMin           = 0x264 // through init_size

	bootFlag   = 0xaa55
	hdrHdrS    = "HdrS"
	minVersion = 0x020c // 2.12: xloadflags

	loadedHigh  = 1 << 0 // loadflags
	kaslrFlag   = 1 << 1
	xlfKernel64 = 1 << 0 // xloadflags

	sector           = 512
	defaultSetup     = 4 // sectors, where the header says 0
	entry64Offset    = 0x200
	maxUnpacked      = layout.GiB
	sizeTrailer      = 4 // bytes: the unpacked size behind the compressed data
	defaultCmdline   = 2047
	defaultInitrdMax = 0x7fffffff
)

// bzImage is what the setup header of a bzImage says, checked.
type bzImage struct {
	header        [hdrEnd - hdrSetupSects]byte // as in the file, zero behind its end
	code          int64                        // offset of the protected-mode code in the file
	codeSize      int64                        // bytes
	payload       int64                        // offset of the compressed kernel in the file
	payloadSize   int64                        // bytes, without the trailer
	unpackedSize  uint32                       // bytes, as the trailer says
	prefAddress   uint64                       // guest-physical
	initSize      uint32                       // bytes that the kernel needs from where it is loaded
	initrdAddrMax uint32                       // last byte an initrd may have
	cmdlineSize   uint32                       // bytes, without NUL
}

// isBzImage reports whether the head is that of a Linux/x86 boot executable, of any age.
func isBzImage(head []byte) bool {
	return len(head) >= hdrMagic+4 && string(head[hdrMagic:hdrMagic+4]) == hdrHdrS &&
		binary.LittleEndian.Uint16(head[hdrBootFlag:]) == bootFlag
}

// parseBzImage reads the setup header and checks that what it names is in the file.
func parseBzImage(r io.ReaderAt, size int64) (*bzImage, error) {
	if size < headSize {
		return nil, truncated(headSize, size)
	}
	var h [headSize]byte
	if err := readAt(r, h[:], 0); err != nil {
		return nil, err
	}
	if err := checkSetup(&h); err != nil {
		return nil, err
	}
	b := newBzImage(&h)
	if b.code+b.codeSize > size {
		return nil, truncated(b.code+b.codeSize, size)
	}
	if err := b.checkPlacement(); err != nil {
		return nil, err
	}
	return b, b.readPayload(r, &h)
}

func checkSetup(h *[headSize]byte) error {
	version := binary.LittleEndian.Uint16(h[hdrVersion:])
	if h[hdrLoadFlags]&loadedHigh == 0 {
		return errors.New("a zImage, which loads low: build a bzImage for x86-64")
	}
	if version < minVersion {
		return fmt.Errorf("a bzImage of boot protocol %d.%02d: stile needs 2.12 (Linux 3.8) or newer", version>>8, version&0xff)
	}
	if binary.LittleEndian.Uint16(h[hdrXLoadFlags:])&xlfKernel64 == 0 {
		return errors.New("a 32-bit bzImage (no 64-bit entry point): stile boots 64-bit kernels only, " + archRemedy)
	}
	if end := 0x202 + int(h[hdrJump]); end < hdrMin {
		return fmt.Errorf("its setup header ends at %#x, before its fields do: the file is damaged", end)
	}
	return nil
}

func newBzImage(h *[headSize]byte) *bzImage {
	le := binary.LittleEndian
	sectors := int64(h[hdrSetupSects])
	if sectors == 0 {
		sectors = defaultSetup
	}
	b := &bzImage{
		code:          (sectors + 1) * sector,
		codeSize:      int64(le.Uint32(h[hdrSysSize:])) * 16,
		prefAddress:   le.Uint64(h[hdrPrefAddress:]),
		initSize:      le.Uint32(h[hdrInitSize:]),
		initrdAddrMax: le.Uint32(h[hdrInitrdAddrMax:]),
		cmdlineSize:   le.Uint32(h[hdrCmdlineSize:]),
	}
	end := min(0x202+int(h[hdrJump]), hdrEnd)
	copy(b.header[:], h[hdrSetupSects:end])
	return b
}

// checkPlacement checks what tells how much memory the kernel takes, and from where.
func (b *bzImage) checkPlacement() error {
	if b.codeSize <= entry64Offset || int64(b.initSize) < b.codeSize {
		return fmt.Errorf("%#x bytes of code and init_size %#x: the file is damaged", b.codeSize, b.initSize)
	}
	addr := b.loadAddr()
	if addr < layout.HighRAM || addr%layout.PageSize != 0 || addr > max4GiB-uint64(b.initSize) {
		return fmt.Errorf("wants to be loaded at %#x, %#x bytes: only addresses between 1 MiB and 4 GiB can be used", addr, b.initSize)
	}
	return nil
}

// loadAddr returns where the kernel is loaded, guest-physical. Below its preferred
// address it would move itself there, above it is the place for kernels that must not
// overwrite somebody else's memory: neither helps here.
func (b *bzImage) loadAddr() uint64 {
	if b.prefAddress == 0 {
		return layout.KernelEntry
	}
	return b.prefAddress
}

// readPayload finds the compressed kernel. Its last 4 bytes are the unpacked size: gzip
// has it there, for the other formats the kernel's build appends it (scripts/Makefile.lib,
// size_append).
func (b *bzImage) readPayload(r io.ReaderAt, h *[headSize]byte) error {
	off := int64(binary.LittleEndian.Uint32(h[hdrPayloadOffset:]))
	n := int64(binary.LittleEndian.Uint32(h[hdrPayloadLength:]))
	if off > b.codeSize || n > b.codeSize-off || n <= sizeTrailer {
		return fmt.Errorf("compressed payload of %#x bytes at %#x is not within the code of %#x bytes: the file is damaged", n, off, b.codeSize)
	}
	b.payload, b.payloadSize = b.code+off, n-sizeTrailer
	var trailer [sizeTrailer]byte
	if err := readAt(r, trailer[:], b.payload+b.payloadSize); err != nil {
		return err
	}
	b.unpackedSize = binary.LittleEndian.Uint32(trailer[:])
	return nil
}
