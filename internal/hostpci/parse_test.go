package hostpci

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/pci"
)

func TestParseBDF(t *testing.T) {
	good := map[string]BDF{
		"0000:01:00.0":     {0, 1, 0, 0},
		"0000:FF:1f.7":     {0, 0xff, 0x1f, 7},
		"10000:e1:00.0":    {0x10000, 0xe1, 0, 0},
		"ffffffff:00:00.0": {0xffffffff, 0, 0, 0},
	}
	for text, want := range good {
		b, err := ParseBDF(text)
		if err != nil || b != want || b.String() != strings.ToLower(text) {
			t.Errorf("%s: %v, %v", text, b, err)
		}
	}
	for _, text := range []string{
		"", "01:00.0", "000:01:00.0", "0000:1:00.0", "0000:01:20.0", "0000:01:00.8", "0000:01:00.00", "0000:01:00",
		"00000:01:00.0", "100000000:01:00.0", "0000:01:00.0 ", "+000:01:00.0", "0000-01:00.0", "0000:01-00.0", "0000:01:00:0", "0x00:01:00.0",
	} {
		if b, err := ParseBDF(text); err == nil {
			t.Errorf("%q: %v, want an error", text, b)
		}
	}
	if _, err := ParseBDF("01:00.0"); !strings.Contains(err.Error(), "write 0000:01:00.0") {
		t.Errorf("error without a remedy: %v", err)
	}
}

func FuzzParseBDF(f *testing.F) {
	f.Add("0000:01:00.0")
	f.Add("10000:e1:1f.7")
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseBDF(text); err == nil && b.String() != strings.ToLower(text) {
			t.Errorf("%q became %v", text, b)
		}
	})
}

const someIDs = `# pci.ids
8086  Intel Corporation
	10d3  82574L Gigabit Network Connection
		8086 a01f  PRO/1000 CT
	100e  82540EM
1234  Technical Corp.
	11e8  Educational device
C 01  Mass storage controller
	08  Non-Volatile memory controller
		02  NVM Express
C 02  Network controller
	00  Ethernet controller
`

func TestNames(t *testing.T) {
	nic := &Function{ID: ID{0x8086, 0x10d3}, Class: 0x020000}
	other := &Function{ID: ID{0x8086, 0x9999}, Class: 0x028000}
	edu := &Function{ID: ID{0x1234, 0x11e8}, Class: 0x00ff00}
	n := lookUp([]byte(someIDs), []*Function{nic, other, edu})
	for id, want := range map[ID]string{nic.ID: "82574L Gigabit Network Connection", other.ID: "", edu.ID: "Educational device"} {
		if got := n.devices[id]; got != want {
			t.Errorf("%v is %q, want %q", id, got, want)
		}
	}
	if got := n.vendors[0x8086]; got != "Intel Corporation" {
		t.Errorf("vendor %q", got)
	}
	if a, b := n.classes[0x0200], n.classes[0x0280]; a != "Ethernet controller" || b != "Network controller" {
		t.Errorf("classes %q and %q", a, b)
	}
	if len(n.devices) != 3 {
		t.Errorf("%d devices kept, 3 asked for", len(n.devices))
	}
}

// TestNamesWithoutList: functions have the names that people know also where the host has no pci.ids.
func TestNamesWithoutList(t *testing.T) {
	for id, want := range map[ID][2]string{
		{0x8086, 0x10d3}: {"Intel Corporation", "82574L Gigabit Network Connection"}, {0x8086, 0x0001}: {"Intel Corporation", ""}, {0x0000, 0}: {},
		{0x1af4, 0x1000}: {"Red Hat, Inc.", "Virtio network device"}, {0xfff7, 1}: {},
	} {
		if vendor, device := known(id); vendor != want[0] || device != want[1] {
			t.Errorf("%v: %q, %q, want %q", id, vendor, device, want)
		}
	}
	for class, want := range map[Class]string{
		0x020000: "Ethernet controller", 0x028000: "Network controller", 0x078000: "Communication controller", 0xff0000: "", 0x000100: "Unclassified device",
		0x010802: "Non-Volatile memory controller",
	} {
		if got := className(class); got != want {
			t.Errorf("class %v: %q, want %q", class, got, want)
		}
	}
	if !slices.IsSortedFunc(pci.IDs, func(a, b pci.Vendor) int { return cmp.Compare(a.ID, b.ID) }) {
		t.Error("vendors are not in order")
	}
}

func TestTitle(t *testing.T) {
	for want, f := range map[string]Function{
		"Ethernet controller: Intel 82574L": {ClassName: "Ethernet controller", VendorName: "Intel", DeviceName: "82574L"},
		"Ethernet controller: Intel":        {ClassName: "Ethernet controller", VendorName: "Intel"},
		"Ethernet controller":               {ClassName: "Ethernet controller"},
		"class 00ff00":                      {Class: 0x00ff00},
	} {
		if got := f.Title(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add([]byte(someIDs))
	f.Add([]byte("8086  \n\t10d3  x\nC 0\nC 02  \n\t\n\t\t\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		wanted := &Function{ID: ID{0x8086, 0x10d3}, Class: 0x020000}
		n := lookUp(text, []*Function{wanted})
		if len(n.vendors) != 1 || len(n.devices) != 1 || len(n.classes) != 1 {
			t.Errorf("kept more than was asked for: %v", n)
		}
	})
}

// The real list has 40,000 lines; this is one of that size.
func BenchmarkNames(b *testing.B) {
	var text strings.Builder
	for vendor := range 2000 {
		text.WriteString(ID{uint16(vendor), 0}.String()[:4] + "  Some Vendor, Incorporated\n")
		for device := range 18 {
			text.WriteString("\t" + ID{uint16(device), 0}.String()[:4] + "  Some Device [Its Other Name]\n")
		}
	}
	var functions []*Function
	for i := range 200 {
		functions = append(functions, &Function{ID: ID{uint16(i * 10), 3}, Class: 0x020000})
	}
	table := []byte(text.String())
	b.SetBytes(int64(len(table)))
	b.ReportAllocs()
	for b.Loop() {
		lookUp(table, functions)
	}
}

func TestParseResource(t *testing.T) {
	text := `0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000004000000000 0x00000040ffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000c000 0x000000000000c01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb00000 0x00000000feb3ffff 0x0000000000046200
0x00000000f0000000 0x00000000f0ffffff 0x0000000000000200
`
	got, err := ParseResource([]byte(text))
	want := []BAR{
		{Index: 0, Address: 0xfe000000, Size: 1 << 20},
		{Index: 2, Address: 0x4000000000, Size: 1 << 32, Wide: true, Prefetchable: true},
		{Index: 4, Address: 0xc000, Size: 32, IO: true},
		{Index: ROM, Address: 0xfeb00000, Size: 256 << 10, Prefetchable: true},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for i, kind := range []string{"memory 32-bit", "memory 64-bit prefetchable", "I/O ports", "ROM"} {
		if got[i].Kind() != kind {
			t.Errorf("BAR %d is %q, want %q", got[i].Index, got[i].Kind(), kind)
		}
	}
	for _, text := range []string{"0x1 0x2\n", "1 2 3\n", "0x2 0x1 0x200\n", "0x0 0xffffffffffffffff 0x200\n", "0x0 0x10000000000000000 0x200\n", "0xg 0x1 0x200\n"} {
		if got, err := ParseResource([]byte(text)); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}

func FuzzParseResource(f *testing.F) {
	f.Add([]byte("0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200\n"))
	f.Add([]byte("\n\n0x0 0xffffffffffffffff 0x300"))
	f.Fuzz(func(t *testing.T, text []byte) {
		bars, err := ParseResource(text)
		if err != nil {
			return
		}
		for i, b := range bars {
			if b.Size == 0 || b.Index > ROM || i > 0 && b.Index <= bars[i-1].Index || b.Address+b.Size-1 < b.Address {
				t.Errorf("impossible BAR %+v", b)
			}
		}
	})
}

func FuzzParseReserved(f *testing.F) {
	f.Add([]byte("0x00000000fee00000 0x00000000feefffff msi\n0x0 0xffffffffffffffff direct-relaxable\n"))
	f.Add([]byte("0x1 0x0 msi"))
	f.Fuzz(func(t *testing.T, text []byte) {
		regions, err := ParseReserved(text)
		if err != nil {
			return
		}
		for _, r := range regions {
			if r.End < r.Start || r.Type == "" {
				t.Errorf("impossible region %+v", r)
			}
		}
	})
}
