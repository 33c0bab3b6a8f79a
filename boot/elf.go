package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/stile-vmm/stile/internal/layout"
)

// Values of the ELF header (System V ABI; elf.h).
const (
	elfHeaderSize = 64
	elfProgSize   = 56
	elfMaxProgs   = 128
	elfMaxNotes   = 64 * layout.KiB

	elfClass64     = 2
	elfData2LSB    = 1
	elfTypeRel     = 1
	elfTypeExec    = 2
	elfTypeDyn     = 3
	elfTypeCore    = 4
	elfMachine386  = 3
	elfMachineX64  = 62
	elfProgLoad    = 1
	elfProgNote    = 4
	noteXenPhys32  = 18 // XEN_ELFNOTE_PHYS32_ENTRY, xen/interface/elfnote.h
	noteNameXen    = "Xen"
	noteNameLinux  = "Linux" // build salt and LTO notes, include/linux/build-salt.h
	max4GiB        = 1 << 32
	elfMachineName = "x86-64"
)

// Segment is one loadable part of an ELF kernel. Memory behind FileSize is zero.
type Segment struct {
	Offset   int64  // in the file
	FileSize uint64 // bytes
	Addr     uint64 // guest-physical
	MemSize  uint64 // bytes, ≥ FileSize
	virt     uint64
}

// End returns the guest-physical address behind the segment.
func (s Segment) End() uint64 { return s.Addr + s.MemSize }

// elfImage is what the headers of an ELF kernel say.
type elfImage struct {
	entry    uint64 // guest-physical
	pvhEntry uint64 // guest-physical, 0: none
	linux    bool
	segments []Segment // at least one, each below 4 GiB
}

func isELF(head []byte) bool { return len(head) >= 4 && string(head[:4]) == "\x7fELF" }

// parseELF reads header, program headers and notes.
func parseELF(r io.ReaderAt, size int64) (*elfImage, error) {
	if size < elfHeaderSize {
		return nil, truncated(elfHeaderSize, size)
	}
	var h [elfHeaderSize]byte
	if err := readAt(r, h[:], 0); err != nil {
		return nil, err
	}
	if err := checkELF(&h); err != nil {
		return nil, err
	}
	progs, err := readProgs(r, size, &h)
	if err != nil {
		return nil, err
	}
	e := &elfImage{entry: binary.LittleEndian.Uint64(h[24:])}
	for p := range progs {
		if err := e.addProg(r, size, progs[p]); err != nil {
			return nil, fmt.Errorf("ELF program header %d: %w", p, err)
		}
	}
	return e, e.checkEntries()
}

func checkELF(h *[elfHeaderSize]byte) error {
	machine := binary.LittleEndian.Uint16(h[18:])
	switch {
	case h[5] != elfData2LSB:
		return errors.New("a big-endian ELF file: " + archRemedy)
	case h[4] != elfClass64 && machine == elfMachine386:
		return errors.New("a 32-bit x86 ELF file: stile boots 64-bit kernels only, " + archRemedy)
	case machine != elfMachineX64:
		return fmt.Errorf("an ELF file for %s: %s", machineName(machine), archRemedy)
	case h[4] != elfClass64:
		return errors.New("a 32-bit (x32) ELF file: " + archRemedy)
	}
	switch t := binary.LittleEndian.Uint16(h[16:]); t {
	case elfTypeExec, elfTypeDyn:
		return nil
	case elfTypeRel:
		return errors.New("an ELF object file, perhaps a kernel module: use a bzImage or an ELF vmlinux")
	case elfTypeCore:
		return errors.New("an ELF core dump: use a bzImage or an ELF vmlinux")
	default:
		return fmt.Errorf("an ELF file of type %d: use a bzImage or an ELF vmlinux", t)
	}
}

func machineName(m uint16) string {
	switch m {
	case elfMachineX64:
		return elfMachineName
	case elfMachine386:
		return "32-bit x86"
	case 40:
		return "32-bit ARM"
	case 183:
		return "arm64"
	case 243:
		return "RISC-V"
	case 21:
		return "64-bit PowerPC"
	case 22:
		return "s390"
	case 258:
		return "LoongArch"
	}
	return fmt.Sprintf("machine %d", m)
}

func readProgs(r io.ReaderAt, size int64, h *[elfHeaderSize]byte) ([][]byte, error) {
	off := binary.LittleEndian.Uint64(h[32:])
	each := binary.LittleEndian.Uint16(h[54:])
	n := int(binary.LittleEndian.Uint16(h[56:]))
	if n == 0 {
		return nil, errors.New("an ELF file with nothing to load: use a bzImage or an ELF vmlinux")
	}
	if each != elfProgSize || n > elfMaxProgs {
		return nil, fmt.Errorf("ELF file with %d program headers of %d bytes; at most %d of %d are expected: the file is damaged", n, each, elfMaxProgs, elfProgSize)
	}
	if err := inFile(off, uint64(n*elfProgSize), size); err != nil {
		return nil, fmt.Errorf("ELF program headers: %w", err)
	}
	b := make([]byte, n*elfProgSize)
	if err := readAt(r, b, int64(off)); err != nil {
		return nil, err
	}
	progs := make([][]byte, n)
	for i := range progs {
		progs[i] = b[i*elfProgSize : (i+1)*elfProgSize]
	}
	return progs, nil
}

func (e *elfImage) addProg(r io.ReaderAt, size int64, p []byte) error {
	le := binary.LittleEndian
	off, filesz, memsz := le.Uint64(p[8:]), le.Uint64(p[32:]), le.Uint64(p[40:])
	switch le.Uint32(p) {
	case elfProgLoad:
		return e.addSegment(size, off, Segment{FileSize: filesz, Addr: le.Uint64(p[24:]), MemSize: memsz, virt: le.Uint64(p[16:])})
	case elfProgNote:
		return e.addNotes(r, size, off, filesz, le.Uint64(p[48:]))
	}
	return nil
}

func (e *elfImage) addSegment(size int64, off uint64, s Segment) error {
	if s.MemSize == 0 {
		return nil
	}
	if s.FileSize > s.MemSize {
		return fmt.Errorf("%#x bytes in the file for %#x in memory: the file is damaged", s.FileSize, s.MemSize)
	}
	if err := inFile(off, s.FileSize, size); err != nil {
		return err
	}
	if s.MemSize > max4GiB || s.Addr > max4GiB-s.MemSize {
		return fmt.Errorf("goes to guest-physical %#x, %#x bytes, not below 4 GiB: not a kernel that can be entered directly", s.Addr, s.MemSize)
	}
	if s.Addr < layout.HighRAM {
		return fmt.Errorf("goes to guest-physical %#x, but what is below %#x belongs to the boot structures: link the kernel at 1 MiB or above", s.Addr, layout.HighRAM)
	}
	s.Offset = int64(off)
	e.segments = append(e.segments, s)
	return nil
}

// addNotes looks through a note segment, a sequence of name and descriptor sizes, type,
// name and descriptor, the latter two padded.
func (e *elfImage) addNotes(r io.ReaderAt, size int64, off, n, align uint64) error {
	if n > elfMaxNotes {
		return fmt.Errorf("%#x bytes of notes, at most %#x are expected: the file is damaged", n, elfMaxNotes)
	}
	if err := inFile(off, n, size); err != nil {
		return err
	}
	b := make([]byte, n)
	if err := readAt(r, b, int64(off)); err != nil {
		return err
	}
	if align != 8 {
		align = 4
	}
	for len(b) >= 12 {
		nameSize, descSize := uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:]))
		typ := binary.LittleEndian.Uint32(b[8:])
		desc := alignUp(12+nameSize, align)
		if desc+descSize > uint64(len(b)) {
			return errors.New("a note exceeds its segment: the file is damaged")
		}
		e.note(cString(b[12:12+nameSize]), typ, b[desc:desc+descSize])
		b = b[min(alignUp(desc+descSize, align), uint64(len(b))):]
	}
	return nil
}

func (e *elfImage) note(name string, typ uint32, desc []byte) {
	switch {
	case name == noteNameLinux:
		e.linux = true
	case name == noteNameXen && typ == noteXenPhys32 && len(desc) >= 8:
		e.pvhEntry = binary.LittleEndian.Uint64(desc)
	case name == noteNameXen && typ == noteXenPhys32 && len(desc) >= 4:
		e.pvhEntry = uint64(binary.LittleEndian.Uint32(desc))
	}
}

// checkEntries makes the entry point physical. A linker script that does not say
// otherwise leaves it virtual.
func (e *elfImage) checkEntries() error {
	if len(e.segments) == 0 {
		return errors.New("an ELF file with nothing to load: use a bzImage or an ELF vmlinux")
	}
	if e.pvhEntry != 0 && !e.contains(e.pvhEntry) {
		return fmt.Errorf("PVH entry point %#x is outside what is loaded: the file is damaged", e.pvhEntry)
	}
	if e.contains(e.entry) {
		return nil
	}
	for _, s := range e.segments {
		if e.entry >= s.virt && e.entry-s.virt < s.FileSize {
			e.entry = s.Addr + (e.entry - s.virt)
			return nil
		}
	}
	return fmt.Errorf("entry point %#x is outside what is loaded: not a kernel, or damaged", e.entry)
}

// contains reports whether addr is in a segment's bytes from the file.
func (e *elfImage) contains(addr uint64) bool {
	for _, s := range e.segments {
		if addr >= s.Addr && addr-s.Addr < s.FileSize {
			return true
		}
	}
	return false
}

// start returns the lowest guest-physical address that is loaded.
func (e *elfImage) start() uint64 {
	start := uint64(math.MaxUint64)
	for _, s := range e.segments {
		start = min(start, s.Addr)
	}
	return start
}

// end returns the guest-physical address behind the highest segment.
func (e *elfImage) end() uint64 {
	end := uint64(0)
	for _, s := range e.segments {
		end = max(end, s.End())
	}
	return end
}

// inFile checks that n bytes at off are within a file of size bytes.
func inFile(off, n uint64, size int64) error {
	if off > math.MaxInt64 || n > math.MaxInt64-off {
		return fmt.Errorf("%#x bytes at offset %#x: the file is damaged", n, off)
	}
	if off+n > uint64(size) {
		return truncated(int64(off+n), size)
	}
	return nil
}

func truncated(want, have int64) error {
	return fmt.Errorf("truncated: its headers ask for %d bytes, it has %d: fetch or build it again", want, have)
}

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// cString returns b up to its first NUL.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
