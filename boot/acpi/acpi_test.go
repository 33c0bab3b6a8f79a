package acpi

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/testenv"
)

func full(cpus int) Config {
	return Config{
		CPUs: cpus, MMIO64: layout.Range{Start: 4 * layout.GiB, Size: 512 * layout.GiB},
		COM1: true, RTC: true, PVPanic: true,
	}
}

// at returns the table at guest-physical addr of tables built for layout.ACPI.
func at(t *testing.T, b []byte, addr uint64) []byte {
	t.Helper()
	off := addr - layout.ACPI
	if off > uint64(len(b))-8 {
		t.Fatalf("table at %#x is outside the %#x bytes built", addr, len(b))
	}
	n := binary.LittleEndian.Uint32(b[off+4:])
	return b[off : off+uint64(n)]
}

// tables follows the pointers from the RSDP and returns every table by its signature.
func tables(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	xsdt := at(t, b, binary.LittleEndian.Uint64(b[24:]))
	m["XSDT"] = xsdt
	for p := xsdt[headerSize:]; len(p) > 0; p = p[8:] {
		table := at(t, b, binary.LittleEndian.Uint64(p))
		m[string(table[:4])] = table
	}
	m["DSDT"] = at(t, b, binary.LittleEndian.Uint64(m["FACP"][140:]))
	m["FACS"] = at(t, b, uint64(binary.LittleEndian.Uint32(m["FACP"][36:])))
	return m
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

func build(t *testing.T, c Config) []byte {
	t.Helper()
	b, err := Build(layout.ACPI, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTablesHang(t *testing.T) {
	for _, cpus := range []int{1, 2, 255, 256, 300, MaxCPUs} {
		b := build(t, full(cpus))
		if len(b) > layout.ACPISize {
			t.Errorf("%d CPUs: %#x bytes", cpus, len(b))
		}
		if string(b[:8]) != "RSD PTR " || sum(b[:20]) != 0 || sum(b[:36]) != 0 {
			t.Errorf("%d CPUs: RSDP % x", cpus, b[:36])
		}
		m := tables(t, b)
		for _, sig := range []string{"XSDT", "FACP", "APIC", "MCFG", "DSDT", "FACS"} {
			if table := m[sig]; string(table[:4]) != sig {
				t.Errorf("%d CPUs: %s has signature %q", cpus, sig, table[:4])
			} else if sig != "FACS" && sum(table) != 0 {
				t.Errorf("%d CPUs: %s has checksum %#x", cpus, sig, sum(table))
			}
		}
	}
}

func TestFADT(t *testing.T) {
	le := binary.LittleEndian
	f := tables(t, build(t, full(1)))["FACP"]
	if len(f) != 276 || f[8] != 6 {
		t.Errorf("FADT has %d bytes, revision %d", len(f), f[8])
	}
	if le.Uint32(f[40:]) != uint32(le.Uint64(f[140:])) {
		t.Errorf("DSDT at %#x and %#x", le.Uint32(f[40:]), le.Uint64(f[140:]))
	}
	if facs := le.Uint32(f[36:]); facs%64 != 0 {
		t.Errorf("FACS at %#x, not aligned to 64 bytes", facs)
	}
	if sci, smi := le.Uint16(f[46:]), le.Uint32(f[48:]); sci != layout.GSISCI || smi != 0 {
		t.Errorf("SCI %d, SMI command port %#x", sci, smi)
	}
	for _, block := range []struct {
		name      string
		short, at int
		port      uint64
		bits      byte
	}{
		{"PM1a event", 56, 148, layout.PortPM1Event, 32},
		{"PM1a control", 64, 172, layout.PortPM1Control, 16},
	} {
		g := f[block.at:]
		if g[0] != 1 || g[1] != block.bits || le.Uint64(g[4:]) != block.port || uint64(le.Uint32(f[block.short:])) != block.port {
			t.Errorf("%s: % x, short %#x", block.name, g[:12], le.Uint32(f[block.short:]))
		}
	}
	// No timer: Linux would read it a dozen times, by an exit each, and never use it.
	if le.Uint32(f[76:]) != 0 || f[91] != 0 || !bytes.Equal(f[208:220], make([]byte, 12)) {
		t.Errorf("PM timer: short %#x, %d bytes, % x", le.Uint32(f[76:]), f[91], f[208:220])
	}
	if g := f[116:]; le.Uint64(g[4:]) != layout.PortReset || f[128] != layout.ResetValue || le.Uint32(f[112:])&(1<<10) == 0 {
		t.Errorf("reset register % x, value %#x, flags %#x", g[:12], f[128], le.Uint32(f[112:]))
	}
	if flags := le.Uint32(f[112:]); flags&(1<<20) != 0 || flags&(1<<4) != 0 {
		t.Errorf("flags %#x: hardware-reduced, or no fixed power button", flags)
	}
}

func TestBootArch(t *testing.T) {
	tests := []struct {
		c    Config
		want uint16
	}{
		{Config{}, 1<<2 | 1<<5},
		{Config{COM1: true}, 1<<0 | 1<<2 | 1<<5},
		{Config{RTC: true}, 1 << 2},
	}
	for _, tt := range tests {
		if got := bootArch(tt.c); got != tt.want {
			t.Errorf("bootArch(%+v) = %#x, want %#x", tt.c, got, tt.want)
		}
	}
}

// entries splits the MADT's structures by type.
func entries(t *testing.T, madt []byte) map[byte][][]byte {
	t.Helper()
	m := map[byte][][]byte{}
	for p := madt[headerSize+8:]; len(p) > 0; p = p[p[1]:] {
		if p[1] < 2 || int(p[1]) > len(p) {
			t.Fatalf("structure of type %d has length %d, %d bytes are left", p[0], p[1], len(p))
		}
		m[p[0]] = append(m[p[0]], p[:p[1]])
	}
	return m
}

func TestMADT(t *testing.T) {
	le := binary.LittleEndian
	tests := []struct{ cpus, lapics, x2apics, x2nmis int }{
		{1, 1, 0, 0}, {2, 2, 0, 0}, {255, 255, 0, 0}, {256, 255, 1, 1}, {300, 255, 45, 1},
	}
	for _, tt := range tests {
		e := entries(t, tables(t, build(t, full(tt.cpus)))["APIC"])
		if len(e[0]) != tt.lapics || len(e[9]) != tt.x2apics || len(e[10]) != tt.x2nmis {
			t.Errorf("%d CPUs: %d local APICs, %d x2APICs, %d x2APIC NMIs", tt.cpus, len(e[0]), len(e[9]), len(e[10]))
		}
		for i, p := range e[0] {
			if p[2] != byte(i) || p[3] != byte(i) || le.Uint32(p[4:]) != 1 {
				t.Errorf("%d CPUs: local APIC %d is % x", tt.cpus, i, p)
			}
		}
		for i, p := range e[9] {
			if id := uint32(255 + i); le.Uint32(p[4:]) != id || le.Uint32(p[8:]) != 1 || le.Uint32(p[12:]) != id {
				t.Errorf("%d CPUs: x2APIC %d is % x", tt.cpus, id, p)
			}
		}
		if io := e[1]; len(io) != 1 || le.Uint32(io[0][4:]) != layout.IOAPIC || le.Uint32(io[0][8:]) != 0 {
			t.Errorf("%d CPUs: I/O APICs % x", tt.cpus, io)
		}
		// The SCI is level-triggered; the timer, unlike on PCs, is on its own pin.
		want := []byte{2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0}
		if over := e[2]; len(over) != 1 || !bytes.Equal(over[0], want) {
			t.Errorf("%d CPUs: overrides % x, want % x", tt.cpus, over, want)
		}
	}
}

func TestMCFG(t *testing.T) {
	m := tables(t, build(t, full(1)))["MCFG"]
	want := []byte{0, 0, 0, layout.ECAM >> 24, 0, 0, 0, 0, 0, 0, 0, layout.ECAMBuses - 1, 0, 0, 0, 0}
	if got := m[headerSize+8:]; !bytes.Equal(got, want) {
		t.Errorf("allocation % x, want % x", got, want)
	}
}

func TestBuildRefuses(t *testing.T) {
	tests := []struct {
		name string
		addr uint64
		c    Config
		want string
	}{
		{"no CPU", layout.ACPI, Config{}, "0 CPUs"},
		{"too many CPUs", layout.ACPI, Config{CPUs: MaxCPUs + 1}, "1 to 1024"},
		{"odd address", layout.ACPI + 16, Config{CPUs: 1}, "start of a page"},
		{"low window", layout.ACPI, Config{CPUs: 1, MMIO64: layout.Range{Start: layout.GiB, Size: layout.GiB}}, "above 4 GiB"},
		{"window that wraps", layout.ACPI, Config{CPUs: 1, MMIO64: layout.Range{Start: 1 << 63, Size: 1 << 63}}, "above 4 GiB"},
	}
	for _, tt := range tests {
		if _, err := Build(tt.addr, tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestPackageLength(t *testing.T) {
	tests := []struct {
		body int
		want []byte
	}{
		{0, []byte{1}},
		{62, []byte{63}},
		{63, []byte{0x41, 0x04}},
		{4093, []byte{0x4f, 0xff}},
		{4094, []byte{0x81, 0x00, 0x01}},
		{1<<20 - 4, []byte{0x8f, 0xff, 0xff}},
		{1<<20 - 3, []byte{0xc1, 0x00, 0x00, 0x01}},
	}
	for _, tt := range tests {
		got := sized(term{amlScope}, make(term, tt.body))
		if head := got[1 : len(got)-tt.body]; !bytes.Equal(head, tt.want) {
			t.Errorf("package of %d bytes has length % x, want % x", tt.body, head, tt.want)
		}
	}
}

func TestEncodings(t *testing.T) {
	tests := []struct {
		name      string
		got, want term
	}{
		{"EISA ID", eisaID("PNP0A08"), term{0x0c, 0x41, 0xd0, 0x0a, 0x08}},
		{"path", path(`\_SB`), term(`\_SB_`)},
		{"dual path", path("_SB.PCI0"), term("\x2e_SB_PCI0")},
		{"zero", integer(0), term{0}},
		{"one", integer(1), term{1}},
		{"byte", integer(0xff), term{0x0a, 0xff}},
		{"word", integer(0x100), term{0x0b, 0, 1}},
		{"dword", integer(0x10000), term{0x0c, 0, 0, 1, 0}},
		{"qword", integer(1 << 32), term{0x0e, 0, 0, 0, 0, 1, 0, 0, 0}},
		{"string", text("ab"), term{0x0d, 'a', 'b', 0}},
	}
	for _, tt := range tests {
		if !bytes.Equal(tt.got, tt.want) {
			t.Errorf("%s: % x, want % x", tt.name, tt.got, tt.want)
		}
	}
}

// TestDisassemble has ACPICA's compiler read every table, and compile the DSDT again.
func TestDisassemble(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		testenv.Missing(t, "iasl", err.Error())
	}
	for _, c := range []Config{{CPUs: 1}, full(300)} {
		dir := t.TempDir()
		for sig, table := range tables(t, build(t, c)) {
			file := filepath.Join(dir, sig+".dat")
			if err := os.WriteFile(file, table, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(iasl, "-d", file).CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("rror")) || bytes.Contains(out, []byte("arning")) {
				t.Errorf("%s: %v\n%s", sig, err, out)
			}
			source, err := os.ReadFile(filepath.Join(dir, sig+".dsl"))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(source, []byte("Invalid")) || bytes.Contains(source, []byte("Unknown")) || bytes.Contains(source, []byte("Incorrect")) {
				t.Errorf("%s is disassembled with complaints:\n%s", sig, source)
			}
		}
		out, err := exec.Command(iasl, "-ve", filepath.Join(dir, "DSDT.dsl")).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("0 Errors, 0 Warnings")) {
			t.Errorf("DSDT compiled again: %v\n%s", err, out)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(layout.ACPI, full(2)); err != nil {
			b.Fatal(err)
		}
	}
}
