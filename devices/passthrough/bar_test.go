package passthrough

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/vfio"
)

// withMSIX gives the device MSI-X of 5 vectors at d0, its table at 0x2000 of BAR 2 and the PBA at
// 0x3000, and BAR 2 of 32 KiB.
func withMSIX(h *fakeHardware) *fakeHardware {
	h.bar(2, bar64|barPrefetch, 0x8000, vfio.Area{Size: 0x8000})
	h.cap(0xc0, capVPD, 0xd0, 0, 0, 0, 0, 0, 0)
	h.cap(0xd0, capMSIX, 0, 4, 0, 0x02, 0x20, 0, 0, 0x02, 0x30, 0, 0)
	h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: 5, EventFD: true}
	return h
}

func TestMSIXMakesHoles(t *testing.T) {
	h := withMSIX(endpoint())
	m := build(t, h)
	var maps []string
	for _, s := range h.since() {
		if len(s) > 4 && s[:4] == "Mmap" {
			maps = append(maps, s)
		}
	}
	if diff := cmp.Diff([]string{"Mmap BAR2 0x0 0x2000", "Mmap BAR2 0x4000 0x4000"}, maps); diff != "" {
		t.Error(diff)
	}
	check(t, m.f.Start(1))
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	at := m.address(2)
	h.since()
	// The table is ours, what is behind it in its page is the device's.
	m.memory.Write(at+0x2000, []byte{1, 2, 3, 4})
	m.memory.Read(at+0x3000, make([]byte, 8))
	m.memory.Write(at+0x2050, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	m.memory.Write(at+0x3008, []byte{9})
	m.memory.Read(at+0x204f, make([]byte, 2))
	want := []string{"write BAR2 0x2050 0102030405060708", "write BAR2 0x3008 09", "read BAR2 0x2050 1"}
	if diff := cmp.Diff(want, h.since()); diff != "" {
		t.Error(diff)
	}
	for gpa, mapped := range map[uint64]bool{at: true, at + 0x1fff: true, at + 0x2000: false, at + 0x3fff: false, at + 0x4000: true} {
		if _, _, ok := m.mapper.HostAt(gpa); ok != mapped {
			t.Errorf("BAR 2 + %#x is memory: %v", gpa-at, ok)
		}
	}
}

// TestTableAndPBAElsewhere: they may share a page, and lie in different BARs.
func TestTableAndPBAElsewhere(t *testing.T) {
	h := endpoint()
	h.bar(0, 0, 0x2000, vfio.Area{Size: 0x2000})
	h.bar(1, 0, 0x1000, vfio.Area{Size: 0x1000})
	h.cap(0xc0, capVPD, 0xd0, 0, 0, 0, 0, 0, 0)
	h.cap(0xd0, capMSIX, 0, 4, 0, 0x00, 0x0f, 0, 0, 0x01, 0x08, 0, 0) // table at f00 of BAR 0, PBA at 800 of BAR 1
	h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: 5}
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	if m.mapped() != 1 {
		t.Errorf("%d parts are mapped, want BAR 0's second page only", m.mapped())
	}
	h.since()
	m.memory.Write(m.address(0)+0xef8, []byte{1})
	m.memory.Write(m.address(0)+0xf08, []byte{1})
	m.memory.Write(m.address(1)+0x7fc, []byte{1})
	if diff := cmp.Diff([]string{"write BAR0 0xef8 01", "write BAR1 0x7fc 01"}, h.since()); diff != "" {
		t.Error(diff)
	}
}

// TestTableInASmallBAR: its page is not mapped, and the guest sees the BAR's own size.
func TestTableInASmallBAR(t *testing.T) {
	h := endpoint()
	h.bar(1, 0, 0x200, vfio.Area{Size: 0x200})
	h.cap(0xc0, capVPD, 0xd0, 0, 0, 0, 0, 0, 0)
	h.cap(0xd0, capMSIX, 0, 4, 0, 0x01, 0, 0, 0, 0x01, 0x01, 0, 0) // table at 0, PBA at 100 of BAR 1
	h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: 5}
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	at := m.address(1)
	m.write(pci.RegBAR0+4, 4, 0xffffffff)
	if got := m.read(pci.RegBAR0+4, 4); got != 0xfffffe00 {
		t.Errorf("sizes as %#x", got)
	}
	m.write(pci.RegBAR0+4, 4, uint32(at))
	if m.mapped() != 0 {
		t.Errorf("%d parts are mapped", m.mapped())
	}
}

// TestMSIXThatCannotBe is hidden: outside of its BAR, in an I/O BAR, overlapping.
func TestMSIXThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(h *fakeHardware){
		"outside":       func(h *fakeHardware) { h.put32(0xd4, 0x7ff8|2) },
		"I/O":           func(h *fakeHardware) { h.bar(4, barIO, 0x100); h.put32(0xd4, 4) },
		"absent BAR":    func(h *fakeHardware) { h.put32(0xd8, 5) },
		"no such BAR":   func(h *fakeHardware) { h.put32(0xd8, 7) },
		"overlap":       func(h *fakeHardware) { h.put32(0xd8, 0x2008|2) },
		"no interrupts": func(h *fakeHardware) { h.irqs[vfio.MSIX] = vfio.IRQInfo{} },
	} {
		t.Run(name, func(t *testing.T) {
			h := withMSIX(endpoint())
			change(h)
			m := plug(t, h)
			if slices.ContainsFunc(m.list(), func(c uint32) bool { return c>>16 == capMSIX }) || len(m.warned) != 1 {
				t.Errorf("list %x, warnings %v", m.list(), m.warned)
			}
		})
	}
}

func TestBARs(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags uint32
		size  uint64
		areas []vfio.Area
		reads uint32 // when sized
		maps  int
		traps []string // of reads at 0, the middle and the end
	}{
		{"32-bit", 0, 0x1000, []vfio.Area{{Size: 0x1000}}, 0xfffff000, 1, nil},
		{"64-bit prefetchable", bar64 | barPrefetch, 0x100000, []vfio.Area{{Size: 0x100000}}, 0xfff0000c, 1, nil},
		{"without mmap", 0, 0x2000, nil, 0xffffe000, 0, []string{"read BAR0 0x0 4", "read BAR0 0x1000 4", "read BAR0 0x1ffc 4"}},
		{"sparse", 0, 0x4000, []vfio.Area{{Offset: 0x1000, Size: 0x2000}}, 0xffffc000, 1, []string{"read BAR0 0x0 4", "read BAR0 0x3ffc 4"}},
		{"sparse, unaligned", 0, 0x4000, []vfio.Area{{Offset: 0x800, Size: 0x1fff}}, 0xffffc000, 1, []string{"read BAR0 0x0 4", "read BAR0 0x2000 4", "read BAR0 0x3ffc 4"}},
		{"areas that overlap", 0, 0x4000, []vfio.Area{{Size: 0x3000}, {Offset: 0x1000, Size: 0x3000}}, 0xffffc000, 1, nil},
		{"area outside", 0, 0x4000, []vfio.Area{{Offset: 0x8000, Size: 0x1000}}, 0xffffc000, 0, []string{"read BAR0 0x0 4", "read BAR0 0x2000 4", "read BAR0 0x3ffc 4"}},
		{"less than a page", 0, 0x100, nil, 0xffffff00, 0, []string{"read BAR0 0x0 4", "read BAR0 0x80 4", "read BAR0 0xfc 4"}},
		{"less than a page, with the page to itself", 0, 0x100, []vfio.Area{{Size: 0x100}}, 0xfffff000, 1, nil},
		{"less than a page, a part of it", 0, 0x100, []vfio.Area{{Size: 0x80}}, 0xffffff00, 0, []string{"read BAR0 0x0 4", "read BAR0 0x80 4", "read BAR0 0xfc 4"}},
		{"odd size", 0, 0x180, nil, 0xfffffe00, 0, []string{"read BAR0 0x0 4", "read BAR0 0x100 4"}},
		{"I/O", barIO, 0x20, nil, 0xffe1, 0, []string{"read BAR0 0x0 4", "read BAR0 0x10 4", "read BAR0 0x1c 4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := endpoint()
			h.bar(0, test.flags, test.size, test.areas...)
			m := plug(t, h)
			old := m.read(pci.RegBAR0, 4)
			m.write(pci.RegBAR0, 4, 0xffffffff)
			if got := m.read(pci.RegBAR0, 4); got != test.reads {
				t.Errorf("sizes as %#x, want %#x", got, test.reads)
			}
			m.write(pci.RegBAR0, 4, old)
			m.write(pci.RegCommand, 2, pci.CommandMemory|pci.CommandIO)
			if m.mapped() != test.maps {
				t.Errorf("%d parts are mapped, want %d", m.mapped(), test.maps)
			}
			h.since()
			space, size := &m.memory, uint64(1)
			for size < test.size {
				size *= 2
			}
			if test.flags&barIO != 0 {
				space = &m.ports
			}
			for _, off := range []uint64{0, size / 2, size - 4} {
				var b [4]byte
				space.Read(m.address(0)+off, b[:])
			}
			if diff := cmp.Diff(test.traps, h.since()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestROM is read only while both enable bits are set, and never written.
func TestROM(t *testing.T) {
	h := endpoint()
	h.rom.data = []byte{0x55, 0xaa, 3: 7}
	h.rom.data = append(h.rom.data, make([]byte, 3000)...)
	m := plug(t, h)
	at := uint64(m.read(pci.RegROM, 4))
	m.write(pci.RegROM, 4, 0xfffff800)
	if got := m.read(pci.RegROM, 4); got != 0xfffff000 || at == 0 {
		t.Errorf("the ROM is at %#x and sizes as %#x", at, got)
	}
	m.write(pci.RegROM, 4, uint32(at)|1)
	read := func() [4]byte {
		var b [4]byte
		m.memory.Read(at, b[:])
		return b
	}
	if b := read(); b != [4]byte{0xff, 0xff, 0xff, 0xff} {
		t.Errorf("without COMMAND it reads %x", b)
	}
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	h.since()
	m.memory.Write(at, []byte{1})
	if b := read(); b != [4]byte{0x55, 0xaa, 0, 7} {
		t.Errorf("reads %x", b)
	}
	m.write(pci.RegROM, 4, uint32(at))
	if b := read(); b[0] != 0xff {
		t.Errorf("disabled it reads %x", b)
	}
	m.root.Reset()
	if got := m.read(pci.RegROM, 4); got != uint32(at) {
		t.Errorf("after a reset the register has %#x", got)
	}
}

// TestBARMoves while the guest runs: what is mapped and trapped goes along.
func TestBARMoves(t *testing.T) {
	h := withMSIX(endpoint())
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	old := m.address(2)
	m.write(pci.RegCommand, 2, 0)
	m.write(0x18, 4, uint32(old)+0x100000)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	if _, _, ok := m.mapper.HostAt(old); ok || m.mapped() != 2 {
		t.Errorf("%d parts are mapped, the old place: %v", m.mapped(), ok)
	}
	if _, _, ok := m.mapper.HostAt(old + 0x100000); !ok {
		t.Error("nothing is at the new place")
	}
}

// TestMapThatFails leaves the BAR trapped, and says so.
func TestMapThatFails(t *testing.T) {
	h := endpoint()
	h.bar(0, 0, 0x1000, vfio.Area{Size: 0x1000})
	h.fail["Mmap"] = errors.New("no memory")
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	h.since()
	m.memory.Write(m.address(0), []byte{1})
	if diff := cmp.Diff([]string{"write BAR0 0x0 01"}, h.since()); diff != "" || len(m.warned) != 1 {
		t.Errorf("%s, warnings %v", diff, m.warned)
	}
}

// TestAccessThatFails reads as ones: the device does not decode.
func TestAccessThatFails(t *testing.T) {
	h := endpoint()
	h.bar(0, 0, 0x1000).err = errors.New("input/output error")
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	b := []byte{0, 0}
	m.memory.Read(m.address(0), b)
	m.memory.Write(m.address(0), b)
	if b[0] != 0xff || b[1] != 0xff || m.f.Stats().Failed != 2 {
		t.Errorf("read %x, %d failed", b, m.f.Stats().Failed)
	}
}

func BenchmarkTrappedRead(b *testing.B) {
	h := endpoint()
	w := &window{f: &Function{}, region: nopRegion{h.bar(0, 0, 0x1000)}}
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		w.Read(16, p)
	}
}

type nopRegion struct{ *fakeRegion }

func (nopRegion) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }
