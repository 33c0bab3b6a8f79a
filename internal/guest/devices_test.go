package guest

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
	"github.com/stile-vmm/stile/vfio"
	"github.com/stile-vmm/stile/vmm"
)

// deviceHost has a disk and a NIC alone in their groups, two functions in a group, one of them with
// its driver, and a function that nothing isolates.
func deviceHost(t *testing.T) (*hosttest.Tree, *hostpci.Host) {
	t.Helper()
	tree := hosttest.New(t)
	tree.Driver("vfio-pci")
	tree.Add(
		hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "nvme", Class: "010802"},
		hosttest.Function{Address: "0000:02:00.0", Group: 2, Driver: "vfio-pci"},
		hosttest.Function{Address: "0000:03:00.0", Group: 3, Driver: "vfio-pci"},
		hosttest.Function{Address: "0000:03:00.1", Group: 3, Driver: "e1000e"},
		hosttest.Function{Address: "0000:04:00.0", Group: -1, Driver: "e1000e"},
		hosttest.Function{Address: "0000:05:00.0", Group: 9},
	)
	kernel := &hosttest.Kernel{Tree: tree, Matches: map[string]string{"0000:01:00.0": "nvme", "0000:03:00.1": "e1000e"}}
	return tree, hostpci.New(tree.Root).WithWriter(kernel, kernel.Load)
}

func claimed(t *testing.T, host *hostpci.Host, tree *hosttest.Tree, devices ...string) (*Claim, error) {
	t.Helper()
	c, err := checkOn(host, tree.Path("/sys"), Spec{Devices: devices})
	if err != nil {
		return nil, err
	}
	return c, c.Take()
}

func TestClaimBindsAndGivesBack(t *testing.T) {
	tree, host := deviceHost(t)
	c, err := claimed(t, host, tree, "01:00.0,bind", "/sys/bus/pci/devices/0000:02:00.0,bind")
	if err != nil {
		t.Fatal(err)
	}
	if d := tree.Driven("0000:01:00.0"); d != "vfio-pci" {
		t.Errorf("the disk is on %s", d)
	}
	if len(c.nodes) != 2 || c.nodes[0].Name != "0000:01:00.0" || c.nodes[1].Group != 2 {
		t.Errorf("nodes %+v", c.nodes)
	}
	for range 2 {
		if err := c.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if d, other := tree.Driven("0000:01:00.0"), tree.Driven("0000:02:00.0"); d != "nvme" || other != "vfio-pci" {
		t.Errorf("given back to %s; what was bound before is on %s", d, other)
	}
}

// TestClaimRefuses before anything is changed, and says why and what to do.
func TestClaimRefuses(t *testing.T) {
	for _, test := range []struct {
		devices []string
		want    []string
	}{
		{[]string{"0000:01:00.0"}, []string{"the host's driver nvme", "0000:01:00.0,bind", "stile bind 0000:01:00.0"}},
		{[]string{"0000:01:00.0,bind", "03:00.0"}, []string{"IOMMU group 3 is not viable", "0000:03:00.1", "e1000e", "stile bind 0000:03:00.1"}},
		{[]string{"0000:04:00.0,bind"}, []string{"no IOMMU", "intel_iommu=on"}},
		{[]string{"0000:09:00.0,bind", "01:00.0"}, []string{"0000:09:00.0", "nvme"}},
		{[]string{"0000:02:00.0"}, []string{"in use by process 77 (qemu)"}},
		{[]string{"0000:01:00.0,bind", "01:00.0"}, []string{"0000:01:00.0 is named twice"}},
		{[]string{"0000:05:00.0"}, []string{"0000:05:00.0 has no driver: write --device 0000:05:00.0,bind"}},
	} {
		tree, host := deviceHost(t)
		tree.Process(77, 5, "qemu", tree.VFIONode("0000:02:00.0"))
		_, err := claimed(t, host, tree, test.devices...)
		if err == nil {
			t.Errorf("%q: claimed", test.devices)
			continue
		}
		for _, w := range test.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q lacks %q", test.devices, err, w)
			}
		}
		if d := tree.Driven("0000:01:00.0"); d != "nvme" {
			t.Errorf("%q: the disk was given to %s", test.devices, d)
		}
	}
}

// TestVirtualFunction: beside its physical function's own driver where groups allow it.
func TestVirtualFunction(t *testing.T) {
	for _, together := range []bool{false, true} {
		tree, host := deviceHost(t)
		group := 6
		if together {
			group = 5
		}
		tree.Add(hosttest.Function{Address: "0000:05:00.0", Group: 5, Driver: "nvme"}, hosttest.Function{Address: "0000:05:00.1", Group: group})
		tree.Virtual("0000:05:00.1", "0000:05:00.0", 0)
		c, err := claimed(t, host, tree, "05:00.1,bind")
		if together {
			if err == nil || !strings.Contains(err.Error(), "IOMMU group 5 is not viable: 0000:05:00.0 is on the host's driver nvme (its driver keeps the virtual functions") {
				t.Errorf("in one group: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if a, b := tree.Driven("0000:05:00.0"), tree.Driven("0000:05:00.1"); a != "nvme" || b != "vfio-pci" {
			t.Errorf("drivers %s and %s", a, b)
		}
		if err := c.Release(); err != nil {
			t.Error(err)
		}
		if _, err := claimed(t, host, tree, "05:00.0,bind"); err == nil || !strings.Contains(err.Error(), "virtual function") {
			t.Errorf("the physical function: %v", err)
		}
	}
}

// TestWholeGroup: a member on a host driver is no hindrance where it is to be bound itself.
func TestWholeGroup(t *testing.T) {
	tree, host := deviceHost(t)
	c, err := claimed(t, host, tree, "0000:03:00.0", "0000:03:00.1,bind")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Release(); err != nil || tree.Driven("0000:03:00.1") != "e1000e" {
		t.Errorf("%v, driver %s", err, tree.Driven("0000:03:00.1"))
	}
}

// TestPlan changes nothing, and tells where RAM goes beside what the group reserves.
func TestPlan(t *testing.T) {
	tree, host := deviceHost(t)
	tree.Write("/sys/kernel/iommu_groups/1/reserved_regions", "0x00000000fee00000 0x00000000feefffff msi\n"+
		"0x0000000008000000 0x00000000080fffff direct\n0x0000000000100000 0x00000000001fffff direct-relaxable\n")
	tree.Write("/sys/bus/pci/devices/0000:01:00.0/resource", "0x0000000800000000 0x000000080fffffff 0x000000000014220c\n"+
		"0x0 0x0 0x0\n0x00000000f0000000 0x00000000f00000ff 0x0000000000040200\n0x00000000f0001100 0x00000000f000117f 0x0000000000040200\n")
	p, err := planOn(host, Spec{Devices: []string{"01:00.0,bind"}, Memory: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	want := []AddressRange{{0, 0x7ffffff}, {0x8200000, 0x101fffff}}
	if len(p.RAM) != 2 || p.RAM[0] != want[0] || p.RAM[1] != want[1] {
		t.Errorf("RAM at %x, want %x", p.RAM, want)
	}
	if b := p.Devices[0].BARs; len(b) != 3 || b[0].Guest != 0x100000000 || b[1].Guest != 0xc0000000 || b[2].Guest != 0xc0001000 {
		t.Errorf("BARs %+v", b)
	}
	if len(p.Bind.Steps) != 1 || len(p.Devices) != 1 || p.Devices[0].Group != 1 || p.Pinned != 256<<20 {
		t.Errorf("plan %+v", p)
	}
	if d := tree.Driven("0000:01:00.0"); d != "nvme" {
		t.Errorf("a plan gave the disk to %s", d)
	}
	if _, err := planOn(host, Spec{Devices: []string{"01:00.0"}}); err == nil {
		t.Error("a plan for a device on its host driver")
	}
}

// TestApply: what the user chose reaches the VM.
func TestApply(t *testing.T) {
	const token = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
	tree, host := deviceHost(t)
	c, err := checkOn(host, tree.Path("/sys"), Spec{
		Devices: []string{"02:00.0,token=" + token}, VFIO: "legacy", OnUnplug: "warn", OnDeviceError: "warn",
	})
	if err == nil {
		err = c.Take()
	}
	if err != nil {
		t.Fatal(err)
	}
	var cfg vmm.Config
	c.Apply(&cfg)
	if cfg.VFIO != vfio.Legacy || cfg.OnUnplug != vmm.Warn || cfg.OnDeviceError != vmm.Warn ||
		len(cfg.Devices) != 1 || cfg.Devices[0].Token != token || cfg.Notice == nil || cfg.DescribeDevice == nil {
		t.Errorf("config %+v", cfg)
	}
}

func TestParseDevice(t *testing.T) {
	const token = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
	for text, want := range map[string]DeviceRequest{
		"0000:01:00.0":                {Name: "0000:01:00.0"},
		"01:00.0,bind":                {Name: "01:00.0", Bind: true},
		"path=/sys/x,bind,":           {Name: "/sys/x", Bind: true},
		"01:00.0,bind,token=" + token: {Name: "01:00.0", Bind: true, Token: token},
	} {
		if got, err := ParseDevice(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ",bind", "01:00.0,steal", "01:00.0,token", "01:00.0,token=secret", "01:00.0,token=" + token + "0"} {
		if _, err := ParseDevice(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	s := Spec{Devices: []string{"01:00.0,x"}, VFIO: "type2", OnUnplug: "cry", OnDeviceError: "laugh"}
	err := s.Validate()
	for _, w := range []string{`"x"`, `"type2"`, `"cry"`, `"laugh"`} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v lacks %s", err, w)
		}
	}
}
