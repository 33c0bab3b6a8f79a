package hostpci_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

func scan(t testing.TB, tree *hosttest.Tree) *hostpci.Snapshot {
	t.Helper()
	s, err := hostpci.New(tree.Root).Scan()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bdf(t testing.TB, s string) hostpci.BDF {
	t.Helper()
	b, err := hostpci.ParseBDF(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

func TestViability(t *testing.T) {
	tests := []struct {
		name   string
		build  func(*hosttest.Tree)
		group  int
		viable bool
		usable bool
		reason string
		remedy string
	}{
		{
			name: "one function on vfio-pci", group: 1, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "vfio-pci"})
			},
		},
		{
			name: "a variant driver is known by its vfio-dev folder", group: 1, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "vendor"})
				h.Mkdir(h.Folder("0000:01:00.0") + "/vfio-dev/vfio3")
			},
		},
		{
			name: "a variant driver of an older kernel is known by its name", group: 1, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "mlx5_vfio_pci"})
			},
		},
		{
			name: "no driver: viable, and nothing to use", group: 1, viable: true,
			remedy: "stile bind 0000:01:00.0",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1})
			},
		},
		{
			name: "host driver", group: 1,
			reason: "IOMMU group 1 is not viable: 0000:01:00.0 is on the host's driver e1000e",
			remedy: "stile bind 0000:01:00.0",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "e1000e"})
			},
		},
		{
			name: "multifunction: two of three left", group: 3,
			reason: "IOMMU group 3 is not viable: 0000:03:00.1 is on the host's driver snd_hda_intel and 0000:03:00.2 is on the host's driver xhci_hcd",
			remedy: "stile bind 0000:03:00.1 0000:03:00.2",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:03:00.0", Group: 3, Driver: "vfio-pci"},
					hosttest.Function{Address: "0000:03:00.1", Group: 3, Driver: "snd_hda_intel"},
					hosttest.Function{Address: "0000:03:00.2", Group: 3, Driver: "xhci_hcd"})
			},
		},
		{
			name: "bridges with pcieport or no driver count as fine, pci-stub too", group: 4, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:00:1c.0", Group: 4, Bridge: true, Driver: "pcieport"},
					hosttest.Function{Address: "0000:04:00.0", Parent: "0000:00:1c.0", Group: 4, Bridge: true},
					hosttest.Function{Address: "0000:05:00.0", Parent: "0000:04:00.0", Group: 4, Driver: "vfio-pci"},
					hosttest.Function{Address: "0000:05:01.0", Parent: "0000:04:00.0", Group: 4, Driver: "pci-stub"},
					hosttest.Function{Address: "0000:05:02.0", Parent: "0000:04:00.0", Group: 4})
			},
		},
		{
			name: "a bridge on another driver", group: 4,
			reason: "IOMMU group 4 is not viable: 0000:00:1c.0 is on the host's driver shpchp (a bridge, which may only have pcieport or no driver)",
			remedy: "echo 0000:00:1c.0 > /sys/bus/pci/drivers/shpchp/unbind",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:00:1c.0", Group: 4, Bridge: true, Driver: "shpchp"},
					hosttest.Function{Address: "0000:04:00.0", Parent: "0000:00:1c.0", Group: 4, Driver: "vfio-pci"})
			},
		},
		{
			name: "a physical function beside its virtual function", group: 6,
			reason: "IOMMU group 6 is not viable: 0000:06:00.0 is on the host's driver nvme (its driver keeps the virtual functions, which end when it is unbound)",
			remedy: "none that keeps the virtual functions: a physical function beside one of them in a group needs a slot or a machine with isolation (ACS)",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:06:00.0", Group: 6, Driver: "nvme"},
					hosttest.Function{Address: "0000:06:00.1", Group: 6, Driver: "vfio-pci"})
				h.Virtual("0000:06:00.1", "0000:06:00.0", 0)
			},
		},
		{
			name: "a wrapped parent donates", group: 7, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:07:00.0", Group: 7, Driver: "vfio-mdev-pci"},
					hosttest.Function{Address: "0000:07:00.1", Group: 7, Driver: "vfio-pci"})
				h.Mediated(uuid, "0000:07:00.0", "vfio-mdev-pci", 7)
			},
		},
		{
			name: "parent and child in a group are not enough", group: 7,
			reason: "IOMMU group 7 is not viable: 0000:07:00.0 is on the host's driver other (parent of mediated device " + uuid + ", whose driver does not donate the group)",
			remedy: "stile mdev remove " + uuid + ", then stile bind 0000:07:00.0",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:07:00.0", Group: 7, Driver: "other"})
				h.Mediated(uuid, "0000:07:00.0", "other", 7)
			},
		},
		{
			name: "wrapped beside a host driver", group: 7,
			reason: "IOMMU group 7 is not viable: 0000:07:00.1 is on the host's driver e1000e",
			remedy: "stile bind 0000:07:00.1",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:07:00.0", Group: 7, Driver: "vfio-mdev-pci"},
					hosttest.Function{Address: "0000:07:00.1", Group: 7, Driver: "e1000e"})
				h.Mediated(uuid, "0000:07:00.0", "vfio-mdev-pci", 7)
			},
		},
		{
			name: "an emulated mediated device", group: 9, viable: true, usable: true,
			build: func(h *hosttest.Tree) {
				h.Group(9, "vfio-noiommu", "unknown")
				h.Mediated(uuid, "mtty/mtty", "vfio_mtty", 9)
			},
		},
		{
			name: "a platform device", group: 2,
			reason: "IOMMU group 2 is not viable: INTC1055:00 is on the host's driver intel-lpss (not a PCI function)",
			remedy: "unbind INTC1055:00 from its driver",
			build: func(h *hosttest.Tree) {
				h.Group(2, "", "DMA")
				h.Link("/sys/kernel/iommu_groups/2/devices/INTC1055:00", "/sys/devices/platform/INTC1055:00")
				h.Link("/sys/devices/platform/INTC1055:00/driver", "/sys/bus/platform/drivers/intel-lpss")
			},
		},
		{
			name: "a disk that is mounted", group: 1,
			reason: "IOMMU group 1 is not viable: 0000:01:00.0 is on the host's driver nvme (nvme0n1 is mounted on /home)",
			remedy: "end what uses 0000:01:00.0, then stile bind 0000:01:00.0",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "nvme"})
				h.Disk("0000:01:00.0", "nvme0n1", "259:0")
				h.Write("/proc/self/mountinfo", "29 1 259:0 / /home rw - ext4 /dev/nvme0n1 rw\n")
			},
		},
		{
			name: "the root: nothing is advised, also for what is beside it", group: 1,
			reason: "IOMMU group 1 is not viable: 0000:01:00.0 is on the host's driver nvme (nvme0n1 is mounted on /) and 0000:01:00.1 is on the host's driver e1000e",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "nvme"}, hosttest.Function{Address: "0000:01:00.1", Group: 1, Driver: "e1000e"})
				h.Disk("0000:01:00.0", "nvme0n1", "259:0")
				h.Write("/proc/self/mountinfo", "29 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")
			},
		},
		{
			name: "the lab's channel", group: 1,
			reason: "IOMMU group 1 is not viable: 0000:00:04.0 is on the host's driver virtio-pci (stile steers this machine through it, by the port stile.agent)",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:00:04.0", Group: 1, Driver: "virtio-pci"})
				h.Write(h.Folder("0000:00:04.0")+"/virtio0/virtio-ports/vport0p1/name", "stile.agent\n")
				h.Link("/sys/class/virtio-ports/vport0p1", h.Folder("0000:00:04.0")+"/virtio0/virtio-ports/vport0p1")
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := hosttest.New(t)
			tt.build(tree)
			v := scan(t, tree).Group(tt.group).Viability
			if v.Viable != tt.viable || v.Usable != tt.usable {
				t.Errorf("viable %v, usable %v; want %v, %v", v.Viable, v.Usable, tt.viable, tt.usable)
			}
			if v.Reason != tt.reason {
				t.Errorf("reason %q\nwant   %q", v.Reason, tt.reason)
			}
			if v.Remedy != tt.remedy {
				t.Errorf("remedy %q\nwant   %q", v.Remedy, tt.remedy)
			}
		})
	}
}

func TestScanReadsAFunction(t *testing.T) {
	tree := hosttest.New(t)
	tree.Add(hosttest.Function{Address: "10000:e1:00.0", ID: "144D:A808", Subsystem: "144D:A801", Class: "010802", Driver: "nvme", Group: 12})
	f := scan(t, tree).Function(bdf(t, "10000:e1:00.0"))
	group := 12
	want := &hostpci.Function{
		Address: bdf(t, "10000:e1:00.0"), ID: hostpci.ID{Vendor: 0x144d, Device: 0xa808},
		Subsystem: hostpci.ID{Vendor: 0x144d, Device: 0xa801}, Class: 0x010802, Driver: "nvme", Group: &group, Status: "host-driver",
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
}

func TestScanVirtualFunctions(t *testing.T) {
	tree := hosttest.New(t)
	tree.Add(hosttest.Function{Address: "0000:06:00.0", Group: 6, Driver: "nvme"},
		hosttest.Function{Address: "0000:06:00.2", Group: 7}, hosttest.Function{Address: "0000:06:00.1", Group: 8})
	tree.Virtual("0000:06:00.2", "0000:06:00.0", 1)
	tree.Virtual("0000:06:00.1", "0000:06:00.0", 0)
	s := scan(t, tree)
	pf := bdf(t, "0000:06:00.0")
	if got := s.Function(pf).VirtualFunctions; !slices.Equal(got, []hostpci.BDF{bdf(t, "0000:06:00.1"), bdf(t, "0000:06:00.2")}) {
		t.Errorf("virtual functions %v", got)
	}
	if got := s.Function(bdf(t, "0000:06:00.1")).PhysicalFunction; got == nil || *got != pf {
		t.Errorf("physical function %v, want %v", got, pf)
	}
}

func TestGroupKinds(t *testing.T) {
	tree := hosttest.New(t)
	const emulated = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"
	tree.Add(hosttest.Function{Address: "0000:07:00.0", Group: 7, Driver: "vfio-mdev-pci"})
	tree.Mediated(uuid, "0000:07:00.0", "vfio-mdev-pci", 7)
	tree.Group(8, "vfio-noiommu", "unknown")
	tree.Mediated(emulated, "mtty", "vfio_mtty", 8)
	tree.Group(9, "vfio-noiommu", "unknown")
	tree.Add(hosttest.Function{Address: "0000:01:00.0", Group: 9, Driver: "vfio-pci"})
	s := scan(t, tree)
	for id, want := range map[int]hostpci.Kind{7: hostpci.Isolated, 8: hostpci.Emulated, 9: hostpci.Unprotected} {
		if got := s.Group(id).Kind; got != want {
			t.Errorf("group %d is %s, want %s", id, got, want)
		}
	}
	if m := s.MediatedDevice(uuid); m.Emulated || *m.Group != 7 || m.Parent != "0000:07:00.0" || m.ParentFunction == nil {
		t.Errorf("wrapped device: %+v", m)
	}
	if m := s.MediatedDevice(emulated); !m.Emulated || m.Parent != "mtty" || m.ParentFunction != nil {
		t.Errorf("emulated device: %+v", m)
	}
	if node := s.Group(9).Node(); node != "/dev/vfio/noiommu-9" {
		t.Errorf("node %s", node)
	}
	if got := s.Group(7).Reserved; !slices.Equal(got, []hostpci.Region{{Start: 0xfee00000, End: 0xfeefffff, Type: "msi"}}) {
		t.Errorf("reserved %v", got)
	}
}

func TestIOMMU(t *testing.T) {
	tests := map[string]struct {
		table, remedy string
		group         int
	}{
		"on":     {group: 1},
		"none":   {remedy: "turn on VT-d or AMD-Vi (IOMMU) in the firmware setup"},
		"unused": {table: "DMAR", remedy: "boot with intel_iommu=on"},
		"amd":    {table: "IVRS", remedy: "boot without amd_iommu=off"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree := hosttest.New(t)
			tree.Add(hosttest.Function{Address: "0000:01:00.0", Group: tt.group})
			if tt.table != "" {
				tree.Write("/sys/firmware/acpi/tables/"+tt.table, "")
			}
			i := scan(t, tree).IOMMU
			if i.On != (tt.group > 0) || !strings.HasPrefix(i.Remedy, tt.remedy) {
				t.Errorf("%+v", i)
			}
		})
	}
}

func TestScanSurvivesWhatItCannotRead(t *testing.T) {
	tree := hosttest.New(t)
	for _, b := range []string{"0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:01:00.3", "0000:01:00.4"} {
		tree.Add(hosttest.Function{Address: b, Group: 1})
	}
	tree.Write("/sys/bus/pci/devices/README", "not a function")
	// Garbage, a file that can't be read (a folder is as good), a link that leads nowhere.
	tree.Write(tree.Folder("0000:01:00.1")+"/uevent", "PCI_CLASS=zz\nPCI_ID\x00\xff\n")
	tree.Remove(tree.Folder("0000:01:00.2") + "/uevent")
	tree.Mkdir(tree.Folder("0000:01:00.2") + "/uevent")
	tree.Remove(tree.Folder("0000:01:00.3"))
	tree.Link(tree.Folder("0000:01:00.4")+"/iommu_group", "/sys/kernel/iommu_groups/many")
	tree.Remove("/sys/kernel/iommu_groups/1/type")
	tree.Write("/sys/kernel/iommu_groups/1/reserved_regions", "0x1 0x0 msi\n")
	s := scan(t, tree)
	if f := s.Function(bdf(t, "0000:01:00.0")); f == nil || f.Problems != nil {
		t.Errorf("sound function: %+v", f)
	}
	for _, b := range []string{"0000:01:00.1", "0000:01:00.2", "0000:01:00.4"} {
		if f := s.Function(bdf(t, b)); f == nil || len(f.Problems) != 1 {
			t.Errorf("%s: %+v, want one problem", b, f)
		}
	}
	if f := s.Function(bdf(t, "0000:01:00.3")); f != nil {
		t.Errorf("unplugged function is there: %+v", f)
	}
	if g := s.Group(1); len(g.Problems) != 2 || len(g.Members) != 5 || g.Members[3].Status != "gone" {
		t.Errorf("group: %+v", g)
	}
}

func TestScanWithoutPCI(t *testing.T) {
	s, err := hostpci.New(t.TempDir()).Scan()
	if err != nil || len(s.Functions) != 0 || s.IOMMU.On {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestHolders(t *testing.T) {
	tree := hosttest.New(t)
	tree.Add(hosttest.Function{Address: "0000:01:00.0", Group: 1, Driver: "vfio-pci"},
		hosttest.Function{Address: "0000:02:00.0", Group: 2, Driver: "vfio-pci"},
		hosttest.Function{Address: "0000:03:00.0", Group: 3, Driver: "vfio-mdev-pci"})
	tree.Mediated(uuid, "0000:03:00.0", "vfio-mdev-pci", 3)
	tree.Process(900, 5, "qemu", "/dev/vfio/1", "/dev/null", "/dev/vfio/1")
	tree.Process(800, 5, "stile", tree.VFIONode("0000:01:00.0"), "/dev/vfio/3")
	tree.Process(700, 5, "sh", "/dev/vfio/vfio", "/dev/vfio/11")
	s := scan(t, tree)
	stile, qemu := hostpci.Process{PID: 800, Command: "stile"}, hostpci.Process{PID: 900, Command: "qemu"}
	for id, want := range map[int][]hostpci.Process{1: {stile, qemu}, 2: nil, 3: {stile}} {
		if got := s.Group(id).Holders; !slices.Equal(got, want) {
			t.Errorf("holders of group %d: %v, want %v", id, got, want)
		}
	}
	if !s.HoldersKnown {
		t.Error("all processes could be asked")
	}
}

func TestResolve(t *testing.T) {
	tree := hosttest.New(t)
	tree.Add(hosttest.Function{Address: "0000:01:00.0"})
	h := hostpci.New(tree.Root)
	for _, name := range []string{"0000:01:00.0", "01:00.0", "/sys/bus/pci/devices/0000:01:00.0", "/sys/devices/pci0000:00/0000:01:00.0/"} {
		if b, err := h.Resolve(name); err != nil || b.String() != "0000:01:00.0" {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
	if _, err := h.Resolve("AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee"); err == nil || !strings.Contains(err.Error(), "no mediated device AAAAAAAA-") {
		t.Errorf("of a UUID: %v", err)
	}
	for _, name := range []string{"", "1:0.0", "0000:02:00.0", "e1000e", "/etc/passwd"} {
		if b, err := h.Resolve(name); err == nil {
			t.Errorf("%s: %v, want an error", name, b)
		}
	}
}
