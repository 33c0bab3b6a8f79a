package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
)

const testRAM = 32 * layout.MiB

func lowRange(size uint64) layout.Range { return layout.Range{Size: size} }

func TestLoadELF(t *testing.T) {
	mem := newMemory(t, lowRange(testRAM), layout.Range{Start: layout.HighRAMBase, Size: layout.MiB})
	text, data := []byte("this is text"), []byte("and this is data")
	k := newKernel(t, testELF{entry: 0x1000004, segments: []testSegment{
		{phys: 0x1000000, data: text},
		{phys: 0x1200000, data: data, memSize: 0x2000},
	}}.bytes())
	e, err := Load(mem, k, Options{
		Cmdline: "console=hvc0", RSDP: layout.ACPI, Seed: []byte("seed"),
		Initrds: []*Initrd{newInitrd("a", []byte("abcde")), newInitrd("b", []byte("fgh"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != Long64 || e.RIP != 0x1000004 || e.RSI != layout.ZeroPage || e.CR3 != layout.PageTables {
		t.Errorf("entry %+v", e)
	}
	if e.Kernel != (Span{0x1000000, 0x202000}) {
		t.Errorf("kernel at %#x", e.Kernel)
	}
	if got := guestBytes(t, mem, 0x1000000, len(text)); !bytes.Equal(got, text) {
		t.Errorf("text is %q", got)
	}
	if got := guestBytes(t, mem, 0x1200000, len(data)); !bytes.Equal(got, data) {
		t.Errorf("data is %q", got)
	}
	if got := guestBytes(t, mem, layout.Cmdline, 13); string(got) != "console=hvc0\x00" {
		t.Errorf("command line is %q", got)
	}
	if want := (Span{testRAM - layout.PageSize, 11}); e.Initrd != want {
		t.Errorf("initrd at %#x, want %#x", e.Initrd, want)
	}
	if got := guestBytes(t, mem, e.Initrd.Start, 11); string(got) != "abcde\x00\x00\x00fgh" {
		t.Errorf("initrd is %q", got)
	}
	checkZeroPage(t, guestBytes(t, mem, layout.ZeroPage, layout.PageSize), e)
	seed := guestBytes(t, mem, layout.HVMStart, 20)
	if want := "\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x04\x00\x00\x00seed"; string(seed) != want {
		t.Errorf("setup_data % x", seed)
	}
}

func checkZeroPage(t *testing.T, z []byte, e Entry) {
	t.Helper()
	le := binary.LittleEndian
	for _, f := range []struct {
		name      string
		got, want uint64
	}{
		{"boot_flag", uint64(le.Uint16(z[0x1fe:])), 0xaa55},
		{"header", uint64(le.Uint32(z[0x202:])), 0x53726448},
		{"type_of_loader", uint64(z[0x210]), 0xff},
		{"loadflags", uint64(z[0x211]), 1},
		{"ramdisk_image", uint64(le.Uint32(z[0x218:])), e.Initrd.Start},
		{"ramdisk_size", uint64(le.Uint32(z[0x21c:])), e.Initrd.Size},
		{"cmd_line_ptr", uint64(le.Uint32(z[0x228:])), layout.Cmdline},
		{"setup_data", le.Uint64(z[0x250:]), layout.HVMStart},
		{"acpi_rsdp_addr", le.Uint64(z[0x70:]), layout.ACPI},
		{"sentinel", uint64(z[0x1ef]), 0},
		{"e820_entries", uint64(z[0x1e8]), 6},
		{"e820[0].size", le.Uint64(z[0x2d0+8:]), layout.LowRAMTop},
		{"e820[1].addr", le.Uint64(z[0x2d0+20:]), layout.LowRAMTop},
		{"e820[1].type", uint64(le.Uint32(z[0x2d0+20+16:])), 2},
		{"e820[2].size", le.Uint64(z[0x2d0+40+8:]), testRAM - layout.HighRAM},
		{"e820[2].type", uint64(le.Uint32(z[0x2d0+40+16:])), 1},
		{"e820[5].addr", le.Uint64(z[0x2d0+100:]), layout.HighRAMBase},
	} {
		if f.got != f.want {
			t.Errorf("zero page: %s is %#x, want %#x", f.name, f.got, f.want)
		}
	}
}

// TestLoadAgain: nothing of what was in RAM reaches a kernel that is loaded where another ran.
func TestLoadAgain(t *testing.T) {
	const text, bss = 0x1000000, 0x8000
	mem := newMemory(t, lowRange(testRAM))
	k := newKernel(t, testELF{entry: text, segments: []testSegment{{phys: text, data: make([]byte, 100), memSize: bss}}}.bytes())
	used := mem.Regions()[0].Bytes
	for i := range used {
		used[i] = 0xee
	}
	e, err := Load(mem, k, Options{Cmdline: "a", Used: true, Initrds: []*Initrd{newInitrd("a", []byte("abcde")), newInitrd("b", []byte("fgh"))}})
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range []Span{{text, bss}, {layout.GDT + gdtSize, 0x1000}, {layout.HighRAM, 0x10000}} {
		if got := guestBytes(t, mem, span.Start, int(span.Size)); !bytes.Equal(got, make([]byte, span.Size)) {
			t.Errorf("%#x is not zero", span.Start)
		}
	}
	if got := guestBytes(t, mem, e.Initrd.Start, 11); string(got) != "abcde\x00\x00\x00fgh" {
		t.Errorf("initrd is %q", got)
	}
	if used[text+bss] != 0xee {
		t.Error("RAM behind the kernel was cleared, which takes time")
	}
}

func TestLong64State(t *testing.T) {
	mem := newMemory(t, lowRange(testRAM))
	e, err := Load(mem, newKernel(t, smallELF().bytes()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if e.CR0&(1<<31|1) != 1<<31|1 || e.CR0>>29&3 != 0 || e.CR4 != 1<<5 || e.EFER != 0x500 || e.RFLAGS != 2 {
		t.Errorf("CR0 %#x, CR4 %#x, EFER %#x, RFLAGS %#x", e.CR0, e.CR4, e.EFER, e.RFLAGS)
	}
	if e.CS.Selector != 0x10 || e.CS.L != 1 || e.CS.DB != 0 || e.Data.Selector != 0x18 || e.GDT.Limit != 31 {
		t.Errorf("CS %+v, data %+v, GDT %+v", e.CS, e.Data, e.GDT)
	}
	gdt := guestBytes(t, mem, e.GDT.Base, 32)
	checkDescriptor(t, "CS", gdt[0x10:], e.CS)
	checkDescriptor(t, "data", gdt[0x18:], e.Data)
	for _, gpa := range []uint64{0, 0x1234, 0x1000000, 0x7fffffff, 0xc0001000, 0xffffffff} {
		if got := translate(t, mem.Read, e.CR3, gpa); got != gpa {
			t.Errorf("%#x is mapped to %#x", gpa, got)
		}
	}
}

// checkDescriptor compares the hidden part of a register with the descriptor it would
// be loaded from.
func checkDescriptor(t *testing.T, name string, desc []byte, s SegmentRegister) {
	t.Helper()
	d := binary.LittleEndian.Uint64(desc)
	got := SegmentRegister{
		Limit: uint32(d&0xffff|d>>32&0xf0000)<<12 | 0xfff, Selector: s.Selector,
		Type: uint8(d >> 40 & 0xf), S: uint8(d >> 44 & 1), DPL: uint8(d >> 45 & 3), Present: uint8(d >> 47 & 1),
		AVL: uint8(d >> 52 & 1), L: uint8(d >> 53 & 1), DB: uint8(d >> 54 & 1), G: uint8(d >> 55 & 1),
	}
	if got != s {
		t.Errorf("%s: descriptor %#x gives %+v, register has %+v", name, d, got, s)
	}
}

// translate walks 4-level page tables with a 2 MiB page at the end.
func translate(t *testing.T, read func(uint64, []byte) error, cr3, virt uint64) uint64 {
	t.Helper()
	next := cr3
	for _, shift := range []uint{39, 30, 21} {
		var b [8]byte
		if err := read(next+virt>>shift&0x1ff*8, b[:]); err != nil {
			t.Fatal(err)
		}
		entry := binary.LittleEndian.Uint64(b[:])
		if entry&3 != 3 || entry&(1<<7) != 0 != (shift == 21) {
			t.Fatalf("entry %#x for %#x at level of bit %d", entry, virt, shift)
		}
		next = entry &^ 0xfff
	}
	return next | virt&0x1fffff
}

func TestLoadPVH(t *testing.T) {
	mem := newMemory(t, lowRange(testRAM))
	k := newKernel(t, smallELF().with(pvhNote(0x100020)).bytes())
	e, err := Load(mem, k, Options{Cmdline: "x", RSDP: layout.ACPI, Initrds: []*Initrd{newInitrd("a", []byte("disk"))}})
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != Protected32 || e.RIP != 0x100020 || e.RBX != layout.HVMStart || e.CR0 != 0x11 || e.CR4 != 0 || e.EFER != 0 {
		t.Errorf("entry %+v", e)
	}
	gdt := guestBytes(t, mem, e.GDT.Base, 32)
	checkDescriptor(t, "CS", gdt[0x10:], e.CS)
	checkDescriptor(t, "data", gdt[0x18:], e.Data)
	le := binary.LittleEndian
	h := guestBytes(t, mem, layout.HVMStart, layout.PageSize)
	if le.Uint32(h) != 0x336ec578 || le.Uint32(h[4:]) != 1 || le.Uint32(h[12:]) != 1 {
		t.Errorf("start info % x", h[:16])
	}
	if le.Uint64(h[24:]) != layout.Cmdline || le.Uint64(h[32:]) != layout.ACPI {
		t.Errorf("command line at %#x, RSDP at %#x", le.Uint64(h[24:]), le.Uint64(h[32:]))
	}
	mod := h[le.Uint64(h[16:])-layout.HVMStart:]
	if le.Uint64(mod) != e.Initrd.Start || le.Uint64(mod[8:]) != 4 {
		t.Errorf("module % x, initrd %#x", mod[:16], e.Initrd)
	}
	if n := le.Uint32(h[48:]); n != 5 {
		t.Errorf("%d memory map entries", n)
	}
	m := h[le.Uint64(h[40:])-layout.HVMStart:]
	if le.Uint64(m[8:]) != layout.LowRAMTop || le.Uint32(m[16:]) != 1 || le.Uint64(m[24:]) != layout.LowRAMTop || le.Uint32(m[40:]) != 2 {
		t.Errorf("memory map % x", m[:48])
	}
}

func TestLoadBzImage(t *testing.T) {
	mem := newMemory(t, lowRange(testRAM))
	image := smallBzImage(appendSize([]byte("\x89LZOxxxx"), 100)).bytes()
	k := newKernel(t, image)
	e, err := Load(mem, k, Options{Seed: []byte("s")})
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != Long64 || e.RIP != layout.KernelEntry+0x200 || e.Kernel != (Span{layout.KernelEntry, 2 * layout.MiB}) {
		t.Errorf("entry %+v", e)
	}
	code := image[4*sector:]
	if got := guestBytes(t, mem, layout.KernelEntry, len(code)); !bytes.Equal(got, code) {
		t.Error("the code in guest memory differs from the file's")
	}
	z := guestBytes(t, mem, layout.ZeroPage, layout.PageSize)
	if !bytes.Equal(z[0x258:0x264], image[0x258:0x264]) || z[0x1ef] != 0 || z[0x211] != 1 || z[0x210] != 0xff {
		t.Errorf("setup header % x, sentinel %#x", z[0x1f1:0x26c], z[0x1ef])
	}
	if got := binary.LittleEndian.Uint64(z[0x250:]); got != layout.HVMStart {
		t.Errorf("setup_data %#x", got)
	}
	if !slices.Equal(z[0x26c:0x290], make([]byte, 0x290-0x26c)) {
		t.Error("the zero page has bytes from behind the setup header")
	}
}

func TestLoadWithoutSeed(t *testing.T) {
	mem := newMemory(t, lowRange(testRAM))
	if _, err := Load(mem, newKernel(t, smallBzImage(appendSize([]byte("\x89LZOxxxx"), 1)).bytes()), Options{}); err != nil {
		t.Fatal(err)
	}
	z := guestBytes(t, mem, layout.ZeroPage, layout.PageSize)
	if got := binary.LittleEndian.Uint64(z[0x250:]); got != 0 {
		t.Errorf("setup_data %#x, from the file", got)
	}
}

// shortReader has less than it said.
type shortReader struct{ io.ReaderAt }

func (r shortReader) ReadAt(p []byte, off int64) (int, error) {
	n, _ := r.ReaderAt.ReadAt(p[:min(len(p), 2)], off)
	return n, io.EOF
}

func TestLoadRefuses(t *testing.T) {
	at := func(phys uint64, size uint64) testELF {
		return testELF{entry: phys, segments: []testSegment{{phys: phys, data: []byte{1}, memSize: size}}}
	}
	big := &Initrd{Name: "big.cpio", Data: bytes.NewReader(nil), Size: 40 * layout.MiB}
	huge := &Initrd{Name: "huge.cpio", Data: bytes.NewReader(nil), Size: 3 * layout.GiB}
	shrunk := newInitrd("shrunk.cpio", []byte("abcdef"))
	shrunk.Data = shortReader{shrunk.Data}
	tests := []struct {
		name string
		elf  testELF
		ram  []layout.Range
		opts Options
		want []string
	}{
		{"no RAM at 0", smallELF(), []layout.Range{{Start: layout.HighRAMBase, Size: layout.MiB}}, Options{}, []string{"no guest RAM at address 0"}},
		{"little RAM", at(0x1000000, 80*layout.MiB), nil, Options{}, []string{"needs 96 MiB", "there are 32 MiB", "use -m 192M"}},
		{"RAM of one page", smallELF(), []layout.Range{{Size: layout.PageSize}}, Options{}, []string{"use -m 128M"}},
		{"kernel in the hole", at(0xc0000000, 4096), nil, Options{}, []string{"linked at a lower address"}},
		{"big initrd", smallELF(), nil, Options{Initrds: []*Initrd{big}}, []string{"initramfs of 40 MiB", "RAM of 32 MiB", "use -m "}},
		{"huge initrd", smallELF(), nil, Options{Initrds: []*Initrd{huge}}, []string{"initramfs of 3072 MiB", "below 2048 MiB", "a smaller one"}},
		{"empty initrd", smallELF(), nil, Options{Initrds: []*Initrd{newInitrd("none.cpio", nil)}}, []string{"initramfs none.cpio", "is empty"}},
		{"shrunk initrd", smallELF(), nil, Options{Initrds: []*Initrd{shrunk}}, []string{"initramfs shrunk.cpio", "unexpected EOF"}},
		{"long command line", smallELF(), nil, Options{Cmdline: strings.Repeat("a", 2048)}, []string{"2048 bytes", "takes 2047"}},
		{"NUL in command line", smallELF(), nil, Options{Cmdline: "a\x00b"}, []string{"0x00 at position 1"}},
		{"newline in command line", smallELF(), nil, Options{Cmdline: "ab\n"}, []string{"0x0a at position 2"}},
		{"long seed", smallELF(), nil, Options{Seed: make([]byte, 1025)}, []string{"seed of 1025 bytes"}},
		{"no PVH", smallELF(), nil, Options{Protocol: PVH}, []string{"no PVH entry point"}},
		{"RAM on ECAM", smallELF(), []layout.Range{{Size: testRAM}, {Start: layout.ECAM, Size: layout.MiB}}, Options{}, []string{"overlaps 0xe0000000"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.ram == nil {
				tt.ram = []layout.Range{{Size: testRAM}}
			}
			_, err := Load(newMemory(t, tt.ram...), newKernel(t, tt.elf.bytes()), tt.opts)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestLoadTruncatedUnderneath(t *testing.T) {
	k := newKernel(t, smallELF().bytes())
	k.src = shortReader{k.src}
	if _, err := Load(newMemory(t, lowRange(testRAM)), k, Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestE820(t *testing.T) {
	mem := newMemory(t, lowRange(layout.MiB), layout.Range{Start: 2 * layout.MiB, Size: layout.MiB}, layout.Range{Start: layout.HighRAMBase, Size: layout.MiB})
	got, err := E820(mem.Regions())
	if err != nil {
		t.Fatal(err)
	}
	want := []MapEntry{
		{Span{0, 0x9fc00}, RAM},
		{Span{0x9fc00, 0x60400}, Reserved},
		{Span{2 * layout.MiB, layout.MiB}, RAM},
		{Span{layout.ECAM, layout.ECAMSize}, Reserved},
		{Span{0xfffbc000, 0x4000}, Reserved},
		{Span{layout.HighRAMBase, layout.MiB}, RAM},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %#x\nwant %#x", got, want)
	}
}

func TestE820TooLong(t *testing.T) {
	var ranges []layout.Range
	for i := range uint64(200) {
		ranges = append(ranges, layout.Range{Start: 2 * i * layout.PageSize, Size: layout.PageSize})
	}
	if _, err := E820(newMemory(t, ranges...).Regions()); err == nil || !strings.Contains(err.Error(), "too many pieces") {
		t.Errorf("got %v", err)
	}
}

func TestCmdlineLimit(t *testing.T) {
	bz := newKernel(t, smallBzImage(appendSize([]byte("\x89LZOxxxx"), 1)).bytes())
	if err := bz.CheckCmdline(strings.Repeat("a", 1023)); err != nil {
		t.Errorf("as long as cmdline_size: %v", err)
	}
	if err := bz.CheckCmdline(strings.Repeat("a", 1024)); err == nil {
		t.Error("longer than cmdline_size: no error")
	}
	bz.bz.cmdlineSize = 1 << 30
	if err := bz.CheckCmdline(strings.Repeat("a", layout.CmdlineMax)); err == nil {
		t.Error("longer than the room for it: no error")
	}
}
