package vfio

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes files (empty) and links (with a target) below a new folder.
func tree(t *testing.T, entries map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, target := range entries {
		path = filepath.Join(root, path)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target == "" {
			check(t, os.WriteFile(path, nil, 0o644))
			continue
		}
		check(t, os.Symlink(target, path))
	}
	return root
}

func TestLookup(t *testing.T) {
	const uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
	const emulated = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"
	root := tree(t, map[string]string{
		"bus/pci/devices/0000:01:00.0/iommu_group":                     "../../../../kernel/iommu_groups/7",
		"bus/pci/devices/0000:01:00.0/vfio-dev/vfio3/dev":              "",
		"bus/pci/devices/0000:02:00.0/iommu_group":                     "../../../../kernel/iommu_groups/8",
		"bus/pci/devices/0000:02:00.0/vfio-dev/vfio4/uevent":           "",
		"bus/pci/devices/0000:03:00.0/vendor":                          "",
		"bus/pci/devices/0000:04:00.0/iommu_group":                     "../../../../kernel/iommu_groups/0",
		"bus/pci/devices/0000:07:00.0/vfio-dev/noiommu-vfio6/dev":      "",
		"class/vfio/noiommu-0/dev":                                     "",
		"bus/mdev/devices/" + uuid:                                     "../../pci/devices/0000:06:00.0/" + uuid,
		"bus/pci/devices/0000:06:00.0/" + uuid + "/iommu_group":        "../../../../kernel/iommu_groups/12",
		"bus/pci/devices/0000:06:00.0/" + uuid + "/vfio-dev/vfio5/dev": "",
		"kernel/iommu_groups/13/name":                                  "",
		"bus/mdev/devices/" + emulated + "/iommu_group":                "../../../../kernel/iommu_groups/13",
		"bus/pci/devices/0000:05:00.0/iommu_group":                     "../../../../kernel/iommu_groups/none",
	})
	check(t, os.WriteFile(filepath.Join(root, "kernel/iommu_groups/13/name"), []byte("vfio-noiommu\n"), 0o644))
	for device, want := range map[string]Node{
		"0000:01:00.0":                          {Name: "0000:01:00.0", Address: "0000:01:00.0", Group: 7, Cdev: "/dev/vfio/devices/vfio3"},
		"01:00.0":                               {Name: "0000:01:00.0", Address: "0000:01:00.0", Group: 7, Cdev: "/dev/vfio/devices/vfio3"},
		root + "/bus/pci/devices/0000:01:00.0/": {Name: "0000:01:00.0", Address: "0000:01:00.0", Group: 7, Cdev: "/dev/vfio/devices/vfio3"},
		"0000:02:00.0":                          {Name: "0000:02:00.0", Address: "0000:02:00.0", Group: 8},
		"0000:03:00.0":                          {Name: "0000:03:00.0", Address: "0000:03:00.0", Group: -1},
		"0000:04:00.0":                          {Name: "0000:04:00.0", Address: "0000:04:00.0", Group: 0, NoIOMMU: true},
		"0000:07:00.0":                          {Name: "0000:07:00.0", Address: "0000:07:00.0", Group: -1, NoIOMMU: true, Cdev: "/dev/vfio/devices/noiommu-vfio6"},
		uuid:                                    {Name: uuid, Address: "0000:06:00.0", Group: 12, Cdev: "/dev/vfio/devices/vfio5"},
		"/sys/bus/mdev/devices/" + uuid:         {Name: uuid, Address: "0000:06:00.0", Group: 12, Cdev: "/dev/vfio/devices/vfio5"},
		emulated:                                {Name: emulated, Group: 13, Emulated: true},
	} {
		got, err := Lookup(root, device)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", device, got, err, want)
		}
	}
	for _, device := range []string{"", "eth0", "0000:01:00.8", "0000:09:00.0", "0000:05:00.0", "../../etc", uuid[:35]} {
		if n, err := Lookup(root, device); err == nil {
			t.Errorf("%q: %+v, want an error", device, n)
		}
	}
}

func TestGroupPath(t *testing.T) {
	for want, n := range map[string]Node{"/dev/vfio/7": {Group: 7}, "/dev/vfio/noiommu-7": {Group: 7, NoIOMMU: true}} {
		if got := n.groupPath(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestNoIOMMU: such a group is of a type of its own, and maps are only remembered.
func TestNoIOMMU(t *testing.T) {
	pci := fakePCI("0000:01:00.0", 7)
	pci.node.NoIOMMU = true
	k := newFakeKernel(t, pci)
	s := openFake(t, k, Legacy)
	attach(t, s, pci.node)
	check(t, s.Map(0, memory(t, 4096), Read))
	check(t, s.Unmap(0, 4096))
	if n := s.Stats().IOCTLs["VFIO_IOMMU_MAP_DMA"]; n != 0 {
		t.Errorf("%d maps", n)
	}
	if _, err := openFake(t, k, IOMMUFD).Attach(pci.node); err == nil {
		t.Error("iommufd takes a device without IOMMU")
	}
}
