package passthrough

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/vfio"
)

// endpoint is a PCIe device with most capabilities: PM 40, vendor-specific 50, one that is not
// shown 60, PCIe 70, AF b0, VPD c0.
func endpoint() *fakeHardware {
	h := newFake()
	h.cap(0x40, capPM, 0x50, 3, 0, 0, 0, 0, 0)
	h.cap(0x50, capVendor, 0x60, 8, 1, 2, 3, 4, 5)
	h.cap(0x60, 0x14, 0x70, 1, 2, 3, 4, 5, 6) // enhanced allocation
	h.cap(0x70, capPCIe, 0xb0, 0x02, 0x01, 0, 0, 0, 0x10)
	h.cap(0xb0, capAF, 0xc0, 6, 3)
	h.cap(0xc0, capVPD, 0, 0, 0, 1, 2, 3, 4)
	h.ext(0x100, 0x10, 0x140, 1, 2, 3, 4) // SR-IOV
	h.ext(0x140, 0x0001, 0x180, 5, 6, 7, 8)
	h.ext(0x180, 0x000f, 0x1c0, 9) // ATS
	h.ext(0x1c0, 0x0003, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	return h
}

// list walks the guest's capabilities: ID at offset.
func (m *machine) list() (ids []uint32) {
	for at := m.read(capPointer, 1); at != 0; at = m.read(int(at)+1, 1) {
		ids = append(ids, m.read(int(at), 1)<<16|at)
		if len(ids) > 48 {
			m.t.Fatal("the guest's list does not end")
		}
	}
	return ids
}

func (m *machine) extList() (ids []uint32) {
	for at := uint32(0x100); at != 0; {
		head := m.read(int(at), 4)
		if head == 0 || head == 0xffffffff {
			break
		}
		ids = append(ids, head&0xffff<<16|at)
		at = head >> 20
		if len(ids) > 960 {
			m.t.Fatal("the guest's extended list does not end")
		}
	}
	return ids
}

func TestHeaderAndLists(t *testing.T) {
	m := plug(t, endpoint())
	for _, r := range []struct {
		off, n int
		want   uint32
	}{
		{pci.RegVendor, 4, 0x56781234}, {pci.RegRevision, 4, 0x01080207}, {pci.RegSubVendor, 4, 0x11001af4},
		{pci.RegHeaderType, 1, 0}, {regPin, 1, 1}, {pci.RegInterruptLine, 1, pci.GSI(1, 1)},
		{0x72, 2, 0x0092},     // PCIe version 2, integrated into the root complex, no slot
		{0x74, 4, 0x10000000}, // device capabilities: function level reset
		{0x52, 4, 0x03020108}, {0x62, 4, 0},
		{0x104, 4, 0}, {0x144, 4, 0x08070605}, {0x184, 4, 0}, {0x1c4, 4, 0x04030201},
	} {
		if got := m.read(r.off, r.n); got != r.want {
			t.Errorf("config %#x reads %#x, want %#x", r.off, got, r.want)
		}
	}
	if diff := cmp.Diff([]uint32{0x010040, 0x090050, 0x100070, 0x1300b0, 0x0300c0}, m.list()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint32{0x000100, 0x010140, 0x0301c0}, m.extList()); diff != "" {
		t.Error(diff)
	}
}

// TestPassedAtTheGuestsWidth: what is passed reaches the device as the guest accessed it, what is
// hidden or emulated does not reach it.
func TestPassedAtTheGuestsWidth(t *testing.T) {
	m := plug(t, endpoint())
	m.write(0x54, 1, 0xaa)
	m.write(0x56, 2, 0xbbcc)
	m.write(0x78, 4, 0x11223344) // device control and status
	m.write(0xe0, 4, 0x01020304) // in no capability
	m.write(0x64, 4, 0xffffffff) // hidden
	m.write(0x108, 4, 0xffffffff)
	m.write(0x50, 2, 0xffff) // ID and next
	m.write(pci.RegVendor, 4, 0)
	m.write(pci.RegStatus, 2, 0xf900)
	want := []string{"write config 0x54 aa", "write config 0x56 ccbb", "write config 0x78 44332211", "write config 0xe0 04030201", "write config 0x6 00f9"}
	if diff := cmp.Diff(want, m.hw.since()); diff != "" {
		t.Error(diff)
	}
	m.read(0x54, 1)
	m.read(0x56, 2)
	m.read(0x78, 4)
	m.read(0x60, 4)
	m.read(0x10, 4)
	if diff := cmp.Diff([]string{"read config 0x54 1", "read config 0x56 2", "read config 0x78 4"}, m.hw.since()); diff != "" {
		t.Error(diff)
	}
}

// TestCommandIsShadowed: the device gets what the guest's register holds, in one write.
func TestCommandIsShadowed(t *testing.T) {
	h := endpoint()
	h.bar(0, 0, 0x1000)
	m := plug(t, h)
	m.write(pci.RegCommand, 2, 0xffff)
	m.write(pci.RegCommand+1, 1, 0)
	if diff := cmp.Diff([]string{"write config 0x4 4605", "write config 0x4 4600"}, h.since()); diff != "" {
		t.Error(diff)
	}
	if got := m.read(pci.RegCommand, 2); got != 0x46 {
		t.Errorf("the guest sees COMMAND %#x", got)
	}
}

// TestDecodeEndsBeforeTheDeviceKnows: whatever write makes the device stop answering, the
// guest's memory is taken away first, and comes back when the device answers.
func TestDecodeEndsBeforeTheDeviceKnows(t *testing.T) {
	for _, test := range []struct {
		name    string
		off, n  int
		v       uint32
		during  int // parts that are mapped when the device gets the write
		after   int
		restore func(m *machine)
	}{
		{"COMMAND", pci.RegCommand, 2, 0, 0, 0, func(m *machine) { m.write(pci.RegCommand, 2, pci.CommandMemory) }},
		{"D3", 0x44, 2, 3, 0, 0, func(m *machine) { m.write(0x44, 2, 0) }},
		{"D3 by a byte", 0x44, 1, 3, 0, 0, func(m *machine) { m.write(0x44, 4, 0) }},
		{"function level reset", 0x78, 2, 0x8000, 0, 1, nil},
		{"its upper byte", 0x79, 1, 0x80, 0, 1, nil},
		{"AF reset", 0xb4, 1, 1, 0, 1, nil},
		{"no reset", 0x78, 2, 0x0010, 1, 1, nil},
		{"D0", 0x44, 2, 0x100, 1, 1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := endpoint()
			h.bar(0, 0, 0x4000, vfio.Area{Size: 0x4000})
			m := plug(t, h)
			m.write(pci.RegCommand, 2, pci.CommandMemory)
			if m.mapped() != 1 {
				t.Fatal("the BAR is not mapped")
			}
			during := -1
			h.config.onWrite = func(int64, []byte) { during = m.mapped() }
			m.write(test.off, test.n, test.v)
			if during != test.during || m.mapped() != test.after {
				t.Errorf("%d parts were mapped when the device got the write, want %d; %d after, want %d", during, test.during, m.mapped(), test.after)
			}
			if test.restore == nil {
				return
			}
			h.config.onWrite = func(int64, []byte) {
				if m.mapped() != 0 {
					t.Error("mapped before the device answers again")
				}
			}
			test.restore(m)
			if m.mapped() != 1 {
				t.Error("the BAR did not come back")
			}
		})
	}
}

// TestBrokenLists: lists that loop, leave the space or overlap are cut off, and never hang.
func TestBrokenLists(t *testing.T) {
	for name, breakIt := range map[string]func(h *fakeHardware){
		"loop":            func(h *fakeHardware) { h.config.data[0x71] = 0x40 },
		"itself":          func(h *fakeHardware) { h.config.data[0x51] = 0x50 },
		"into the header": func(h *fakeHardware) { h.config.data[0xb1] = 0x10 },
		"extended loop":   func(h *fakeHardware) { h.ext(0x180, 0xf, 0x140) },
		"extended header": func(h *fakeHardware) { h.ext(0x180, 0xf, 0x40) },
		"end":             func(h *fakeHardware) { h.ext(0x180, 0xf, 0xffc); h.put32(0xffc, 0xffc<<20|0x20003) },
	} {
		t.Run(name, func(t *testing.T) {
			h := endpoint()
			breakIt(h)
			m := plug(t, h)
			m.list()
			m.extList()
			if len(m.warned) == 0 {
				t.Error("nothing was said of it")
			}
		})
	}
}

func TestLengthsAreChecked(t *testing.T) {
	h := newFake()
	h.cap(0x40, capVendor, 0x44, 1)    // shorter than its header
	h.cap(0x44, capVendor, 0x50, 200)  // into the next
	h.cap(0x50, capMSI, 0x54, 0x80, 0) // no room
	h.cap(0x54, capPM, 0x60, 3, 0)     // 12 bytes: fine
	h.cap(0x60, capPM, 0x68, 3, 0)     // a second one
	h.cap(0x68, capMSIX, 0x6c, 0, 0)   // no room
	h.cap(0x6c, capPCIe, 0xfc, 2, 0)   // version 2
	h.cap(0xfc, capMSIX, 0, 0xff)      // at the end
	h.irqs[vfio.MSI] = vfio.IRQInfo{Count: 1}
	h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: 2048}
	m := plug(t, h)
	if diff := cmp.Diff([]uint32{0x010054, 0x10006c}, m.list()); diff != "" {
		t.Error(diff)
	}
}

func TestNoDevice(t *testing.T) {
	dead := newFake()
	for i := range dead.config.data {
		dead.config.data[i] = 0xff
	}
	bridge := newFake()
	bridge.config.data[pci.RegHeaderType] = 1
	short := newFake()
	short.config.data = short.config.data[:32]
	deadVirtual := newFake()
	copy(deadVirtual.config.data[4:], dead.config.data)
	for _, test := range []struct {
		want string
		h    *fakeHardware
	}{{"reads as ones", dead}, {"reads as ones", deadVirtual}, {"bridges", bridge}, {"32 bytes", short}} {
		if _, err := New(test.h, Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want an error with %q", err, test.want)
		}
	}
}

// TestOddSizes: emulated devices have config spaces of 255 or 256 bytes.
func TestOddSizes(t *testing.T) {
	for _, n := range []int{64, 255, 256, 257, 4096} {
		h := endpoint()
		h.config.data = h.config.data[:n]
		m := plug(t, h)
		m.list()
		m.extList()
		for off := range pci.ConfigSize / 4 {
			m.read(4*off, 4)
			m.write(4*off, 4, 0)
		}
	}
}

// FuzzConfig gives the device any config space. The guest's lists must end, and no access
// reach outside of the device's registers.
func FuzzConfig(f *testing.F) {
	h := endpoint()
	f.Add(h.config.data[:0x200], uint8(0))
	withMSIX(h)
	f.Add(h.config.data[:0x200], uint8(5))
	f.Add(bytes.Repeat([]byte{0x40, 0x41, 0x11, 0x05}, 64), uint8(3))
	f.Fuzz(func(t *testing.T, config []byte, sizes uint8) {
		if len(config) == 0 {
			return
		}
		h := newFake()
		copy(h.config.data, config)
		h.irqs[vfio.MSI], h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: int(sizes)}, vfio.IRQInfo{Count: 16 * int(sizes)}
		for i := range h.bars {
			if sizes>>i&1 != 0 {
				h.bars[i].data = make([]byte, 0x1000<<(i%3)-i%2)
				h.bars[i].areas = []vfio.Area{{Offset: uint64(config[0]), Size: 0x2000}}
			}
		}
		fn, err := New(h, Options{IRQ: &numbered{}})
		if err != nil {
			return
		}
		m := plug(t, h)
		seen := m.list()
		slices.Sort(seen)
		if len(slices.Compact(seen)) != len(seen) {
			t.Errorf("the guest's list has entries twice: %x", seen)
		}
		m.extList()
		for off := 0; off < pci.ConfigSize; off += 2 {
			m.read(off, 2)
			m.write(off, 2, uint32(config[off%len(config)])*0x101)
		}
		check(t, fn.Close())
		check(t, m.f.Close())
		m.root.Close()
	})
}

// TestHiddenOwnsItsOwn: what lies behind a hidden capability are registers of the device.
func TestHiddenOwnsItsOwn(t *testing.T) {
	h := newFake()
	h.cap(0x40, capPCIe, 0x80, 2, 0)
	h.cap(0x80, 0x0c, 0) // of a length that nobody knows
	h.config.data[0x90] = 0x5a
	h.ext(0x100, 0x0d, 0, 1, 2, 3, 4) // ACS, the last one
	h.config.data[0x800] = 0xa5
	m := plug(t, h)
	for at, want := range map[int]uint32{0x80: 0, 0x90: 0x5a, 0x104: 0, 0x800: 0xa5} {
		if got := m.read(at, 1); got != want {
			t.Errorf("register %#x reads %#x, want %#x", at, got, want)
		}
	}
	m.write(0x800, 1, 0x77)
	if h.config.data[0x800] != 0x77 {
		t.Errorf("a write to 0x800 has left it %#x", h.config.data[0x800])
	}
}

// TestExpress: an endpoint on the root bus has no link, a legacy one no PCIe capability, and there is no version 0.
func TestExpress(t *testing.T) {
	for name, test := range map[string]struct {
		flags, want byte
		link        uint32
		hidden      bool
	}{
		"endpoint":               {flags: 0x02, want: 0x92},
		"version 0":              {flags: 0x00, want: 0x91},
		"integrated on the host": {flags: 0x92, want: 0x92},
		"legacy endpoint":        {flags: 0x12, hidden: true},
		"port of a switch, say":  {flags: 0x52, want: 0x52, link: 0x11223344},
	} {
		h := newFake()
		h.cap(0x40, capPCIe, 0, test.flags)
		h.put32(0x40+pcieLink, 0x11223344)
		h.put32(0x40+pcieLink2, 0x11223344)
		m := plug(t, h)
		if test.hidden {
			if list := m.list(); len(list) > 0 {
				t.Errorf("%s: capabilities %x", name, list)
			}
			continue
		}
		if got := m.read(0x42, 1); got != uint32(test.want) {
			t.Errorf("%s: flags %#x, want %#x", name, got, test.want)
		}
		if got := m.read(0x40+pcieLink, 4); got != test.link {
			t.Errorf("%s: link capabilities %#x, want %#x", name, got, test.link)
		}
		if test.flags&15 == 2 && m.read(0x40+pcieLink2, 4) != test.link {
			t.Errorf("%s: second link capabilities %#x", name, m.read(0x40+pcieLink2, 4))
		}
	}
}
