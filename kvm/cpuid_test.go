package kvm

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

func leaf(function, index, eax, ebx, ecx, edx uint32) CPUIDEntry {
	e := CPUIDEntry{Function: function, Index: index, Eax: eax, Ebx: ebx, Ecx: ecx, Edx: edx}
	switch function {
	case leafCacheIntel, leafExtFeatures, leafTopology, leafXSave, leafTopologyV2, leafAMDCache:
		e.Flags = uapi.CPUIDSignificantIdx
	}
	return e
}

func must(t *testing.T, entries []CPUIDEntry, function, index uint32) CPUIDEntry {
	t.Helper()
	e := find(entries, function, index)
	if e == nil {
		t.Fatalf("leaf %#x, %d is not there", function, index)
	}
	return *e
}

func TestGuestCPUIDTopology(t *testing.T) {
	host := []CPUIDEntry{
		leaf(0, 0, 0x1f, 0, 0, 0),
		leaf(leafFeatures, 0, 0, 0x07400800, 1<<bitTSCDeadline, 0),
		leaf(leafCacheIntel, 0, 0x3f<<26|0x7ff<<14|1<<5|1, 0, 0, 0),
		leaf(leafCacheIntel, 3, 0x3f<<26|0x7ff<<14|3<<5|3, 0, 0, 0),
		leaf(leafCacheIntel, 4, 0, 0, 0, 0),
		leaf(leafTopology, 0, 1, 2, 0x100, 7),
		leaf(leafTopology, 1, 6, 64, 0x201, 7),
		leaf(leafTopologyV2, 0, 1, 2, 0x100, 7),
		leaf(leafAMDFeatures, 0, 0, 0, 1<<bitCmpLegacy, 0),
		leaf(leafAMDSizes, 0, 0x3030, 0, 0x703f, 0),
		leaf(leafAMDTopology, 0, 7, 0x107, 0x300, 0),
	}
	before := slices.Clone(host)
	tests := map[string]struct {
		o            CPUIDOptions
		ebx1         uint32
		htt          bool
		l1, l3       uint32
		shift        uint32
		amdSizes     uint32
		amdEbx       uint32
		cmp, tscDead bool
	}{
		"one":       {CPUIDOptions{VCPUs: 1}, 0x00010800, false, 1<<5 | 1, 3<<5 | 3, 0, 0, 0, false, false},
		"3rd of 4":  {CPUIDOptions{VCPU: 2, VCPUs: 4, TSCDeadline: true}, 0x02040800, true, 3<<26 | 1<<5 | 1, 3<<26 | 3<<14 | 3<<5 | 3, 2, 0x2003, 2, true, true},
		"2nd of 3":  {CPUIDOptions{VCPU: 1, VCPUs: 3}, 0x01040800, true, 3<<26 | 1<<5 | 1, 3<<26 | 3<<14 | 3<<5 | 3, 2, 0x2002, 1, true, false},
		"0 is 1":    {CPUIDOptions{}, 0x00010800, false, 1<<5 | 1, 3<<5 | 3, 0, 0, 0, false, false},
		"last, 255": {CPUIDOptions{VCPU: 254, VCPUs: 255}, 0xfeff0800, true, 0x3f<<26 | 1<<5 | 1, 0x3f<<26 | 255<<14 | 3<<5 | 3, 8, 0x80fe, 254, true, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := GuestCPUID(host, test.o)
			if !slices.Equal(host, before) {
				t.Fatal("the argument was changed")
			}
			features := must(t, got, leafFeatures, 0)
			if features.Ebx != test.ebx1 {
				t.Errorf("leaf 1 EBX %#x, want %#x", features.Ebx, test.ebx1)
			}
			if htt := features.Edx>>bitHTT&1 == 1; htt != test.htt {
				t.Errorf("HTT %v, want %v", htt, test.htt)
			}
			if features.Ecx>>bitHypervisor != 1 {
				t.Error("hypervisor bit is clear")
			}
			if on := features.Ecx>>bitTSCDeadline&1 == 1; on != test.tscDead {
				t.Errorf("TSC deadline %v, want %v", on, test.tscDead)
			}
			for index, want := range map[uint32]uint32{0: test.l1, 3: test.l3, 4: 0} {
				if e := must(t, got, leafCacheIntel, index); e.Eax != want {
					t.Errorf("cache %d EAX %#x, want %#x", index, e.Eax, want)
				}
			}
			core := must(t, got, leafTopology, 1)
			if core.Eax != test.shift || core.Ebx != uint32(max(test.o.VCPUs, 1)) || core.Ecx != 0x201 || core.Edx != uint32(test.o.VCPU) {
				t.Errorf("topology of cores %+v", core)
			}
			if e := must(t, got, leafTopology, 0); e.Eax != 0 || e.Ebx != 1 || e.Ecx != 0x100 || e.Edx != uint32(test.o.VCPU) {
				t.Errorf("topology of threads %+v", e)
			}
			if find(got, leafTopologyV2, 0) != nil {
				t.Error("the host's leaf 0x1f is still there")
			}
			if e := must(t, got, leafAMDSizes, 0); e.Ecx != test.amdSizes {
				t.Errorf("leaf 0x80000008 ECX %#x, want %#x", e.Ecx, test.amdSizes)
			}
			if e := must(t, got, leafAMDTopology, 0); e.Eax != uint32(test.o.VCPU) || e.Ebx != test.amdEbx || e.Ecx != 0 {
				t.Errorf("leaf 0x8000001e %+v", e)
			}
			if e := must(t, got, leafAMDFeatures, 0); e.Ecx>>bitCmpLegacy&1 == 1 != test.cmp {
				t.Errorf("leaf 0x80000001 ECX %#x", e.Ecx)
			}
		})
	}
}

func TestGuestCPUIDHidesAsyncPageFaults(t *testing.T) {
	host := []CPUIDEntry{leaf(uapi.CPUIDFeatures, 0, 0x01007efb, 0, 0, 0)} // QEMU 7.2, kvm-amd
	if e := must(t, GuestCPUID(host, CPUIDOptions{}), uapi.CPUIDFeatures, 0); e.Eax != 0x01003aeb {
		t.Errorf("EAX %#x, want 0x01003aeb", e.Eax)
	}
}

// TestMicroGuestSeesItsCPUID checks with the kernel that what GuestCPUID makes is accepted
// and read back by each vCPU.
func TestMicroGuestSeesItsCPUID(t *testing.T) {
	g := newGuest(t, true)
	supported, err := g.sys.SupportedCPUID()
	check(t, err)
	for id := range 2 {
		c := g.unbound(id)
		check(t, c.SetCPUID(GuestCPUID(supported, CPUIDOptions{VCPU: id, VCPUs: 2})))
		got, err := c.CPUID()
		check(t, err)
		if e := must(t, got, leafFeatures, 0); e.Ebx>>24 != uint32(id) {
			t.Errorf("vCPU %d: leaf 1 EBX %#x", id, e.Ebx)
		}
	}
}

// TestXSaveSizeFollowsXCR0 is what Linux does at boot: set XCR0 to all components, ask for
// the size of the XSAVE area, compare with the sum of the components.
func TestXSaveSizeFollowsXCR0(t *testing.T) {
	g := newGuest(t, false)
	supported, err := g.sys.SupportedCPUID()
	check(t, err)
	entries := GuestCPUID(supported, CPUIDOptions{VCPUs: 1})
	xcr0 := initialXCR0(entries)
	if xcr0 == 0 {
		testenv.Missing(t, "xsave", "the host's CPU has no XSAVE")
	}
	c := g.vcpu(0)
	check(t, c.SetCPUID(entries))
	g.longMode(c, code(
		0x0f, 0x20, 0xe0, // mov rax, cr4
		0x0d, uint32(1<<18), // or eax, 1<<18 (OSXSAVE)
		0x0f, 0x22, 0xe0, // mov cr4, rax
		0x31, 0xc9, // xor ecx, ecx
		0x31, 0xd2, // xor edx, edx
		0xb8, uint32(xcr0), // mov eax, xcr0
		0x0f, 0x01, 0xd1, // xsetbv
		0xb8, uint32(leafXSave), // mov eax, 0xd
		0x31, 0xc9, // xor ecx, ecx
		0x0f, 0xa2, // cpuid
		0x89, 0xd8, // mov eax, ebx
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0xef, // out dx, eax
		0xf4))
	exit, err := c.Run()
	check(t, err)
	if exit.Reason == ExitShutdown || exit.Reason == ExitInternalError {
		testenv.Missing(t, "hardware-kvm", "this KVM interprets kernel code and knows no XSETBV")
	}
	if exit.Reason != ExitIO {
		t.Fatalf("exit %v\n%s", exit, c.Describe())
	}
	data := exit.IO().Data
	got := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
	if want := standardSize(entries, xcr0); got != want {
		t.Errorf("XCR0 %#x: the guest sees a size of %d, Linux computes %d", xcr0, got, want)
	}
}

func TestPhysicalBits(t *testing.T) {
	if n := PhysicalBits([]CPUIDEntry{{Function: leafAMDSizes, Eax: 0x3027}}); n != 39 {
		t.Errorf("%d bits, want 39", n)
	}
	if n := PhysicalBits(nil); n != defaultPhysicalBits {
		t.Errorf("%d bits without the leaf", n)
	}
}

// TestCPUIDComesFirst holds callers to the order that current kernels demand, also where the
// kernel under the test is older and takes any.
func TestCPUIDComesFirst(t *testing.T) {
	g := newGuest(t, true)
	parts, err := g.sys.StateParts()
	check(t, err)
	state, err := g.unbound(0).Save(parts)
	check(t, err)
	c := g.blank(1)
	s, err := c.Sregs()
	check(t, err)
	enterLongMode(s, g.ram)
	for name, call := range map[string]func() error{
		"system registers": func() error { return c.SetSregs(s) },
		"state":            func() error { return c.Restore(state) },
	} {
		if err := call(); !errors.Is(err, ErrNoCPUID) || !strings.Contains(err.Error(), "vCPU 1") {
			t.Errorf("%s: %v, want ErrNoCPUID and the vCPU", name, err)
		}
	}
	supported, err := g.sys.SupportedCPUID()
	check(t, err)
	check(t, c.SetCPUID(GuestCPUID(supported, CPUIDOptions{VCPU: 1, VCPUs: 2})))
	check(t, c.SetSregs(s))
}
