package mdev_test

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
	"github.com/stile-vmm/stile/mdev"
)

// vendorHost has a parent as a vendor's driver makes it, and one that hides half of its files.
func vendorHost(t *testing.T) (*hosttest.Tree, *kernel, *mdev.Host) {
	t.Helper()
	tree, k, h := newHost(t)
	for path, text := range map[string]string{
		"a-1/name": "One\n", "a-1/device_api": "vfio-pci\n", "a-1/available_instances": "16\n", "a-1/description": "ports: 1\n", "a-1/create": "",
		"a-2/available_instances": "many\n", "a-2/create": "",
		"b-2/available_instances": "0\n", "b-2/devices/" + uuidB + "/x": "", "b-2/devices/other/x": "", "b-2/create": "",
	} {
		tree.Write("/sys/devices/virtual/mtty/mdev_supported_types/"+path, text)
	}
	tree.Link("/sys/devices/virtual/mtty/driver", "/sys/bus/platform/drivers/mtty")
	tree.Link("/sys/class/mdev_bus/mtty", "/sys/devices/virtual/mtty")
	return tree, k, h
}

func TestParents(t *testing.T) {
	_, _, h := newHost(t)
	if list, err := h.Parents(); err != nil || len(list) != 0 {
		t.Errorf("parents %+v, %v", list, err)
	}
	_, err := h.Parent(nic)
	wantError(t, err, "stile mdev wrap")

	_, _, h = vendorHost(t)
	_, err = h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	list, err := h.Parents()
	check(t, err)
	if len(list) != 2 || list[0].Name != nic || *list[0].Group != 3 || list[0].Driver != hostpci.DonorDriver || *list[0].Function != bdf(t, nic) {
		t.Fatalf("parents %+v", list)
	}
	if types := list[0].Types; len(types) != 1 || types[0].Available != 0 || !slices.Equal(types[0].Devices, []string{uuidA}) {
		t.Errorf("types %+v", types)
	}
	m := list[1]
	if m.Name != "mtty" || m.Driver != "mtty" || m.Function != nil || m.Group != nil || len(m.Types) != 3 {
		t.Fatalf("parent %+v", m)
	}
	if one := m.Types[0]; one.ID != "a-1" || one.Name != "One" || one.Description != "ports: 1" || one.DeviceAPI != "vfio-pci" || one.Available != 16 {
		t.Errorf("type %+v", one)
	}
	if m.Types[1].Available != -1 || m.Types[2].Available != 0 || !slices.Equal(m.Types[2].Devices, []string{uuidB}) {
		t.Errorf("types %+v", m.Types)
	}
	_, err = h.Parent(disk)
	wantError(t, err, disk, "only of "+nic+", mtty")
}

func TestCreateErrors(t *testing.T) {
	tree, k, h := vendorHost(t)
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	for name, test := range map[string]struct {
		parent, typ, uuid string
		errno             unix.Errno
		want              string
	}{
		"no parent":      {disk, "x", "", 0, "only of"},
		"no type":        {"mtty", "x", "", 0, "mtty has no type x of mediated devices; it has a-1, a-2, b-2"},
		"unclear type":   {"mtty", "2", "", 0, "mtty has no type 2"},
		"bad UUID":       {"mtty", "1", "abc", 0, "is no UUID"},
		"UUID twice":     {"mtty", "1", uuidA, unix.EEXIST, "belongs to a mediated device of " + nic},
		"UUID of others": {"mtty", "1", uuidB, unix.EEXIST, "belongs to a mediated device already"},
		"none left":      {"03:00.0", "type1", "", unix.EUSERS, "made are " + uuidA},
		"no room":        {"mtty", "b-2", "", unix.ENOSPC, "made are " + uuidB},
		"others took it": {"mtty", "1", "", unix.EUSERS, "another type"},
		"refused":        {"mtty", "1", "", unix.EINVAL, "the driver mtty refuses it"},
		"parent in use":  {"mtty", "1", "", unix.EBUSY, "in use"},
		"with VFs":       {nic, "type1", "", unix.EBUSY, "virtual functions"},
		"going":          {"mtty", "1", "", unix.ENODEV, "about to lose its driver"},
		"gone":           {"mtty", "1", "", unix.ENOENT, "has lost it"},
		"memory":         {"mtty", "1", "", unix.ENOMEM, "no memory"},
		"no right":       {"mtty", "1", "", unix.EACCES, "needs root"},
		"container":      {"mtty", "1", "", unix.EROFS, "read-only"},
		"other":          {"mtty", "1", "", unix.EIO, "input/output error"},
	} {
		k.before = func(int, hostpci.Write) error {
			if test.errno == 0 {
				t.Errorf("%s: it was written", name)
			}
			return test.errno
		}
		_, err := h.Create(test.parent, test.typ, test.uuid)
		wantError(t, err, test.want)
		if test.errno != 0 && !errors.Is(err, test.errno) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_ = tree
}

func TestRemove(t *testing.T) {
	tree, k, h := newHost(t)
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	wantError(t, h.Remove(uuidB, mdev.RemoveOptions{}), "no mediated device "+uuidB)
	wantError(t, h.Remove("x", mdev.RemoveOptions{}), "is no UUID")
	for errno, want := range map[unix.Errno]string{
		unix.EAGAIN: "by someone else", unix.ENODEV: "it is gone", unix.ENOENT: "it is gone", unix.EBUSY: "in use",
		unix.EPERM: "needs root", unix.EROFS: "read-only", unix.EIO: "input/output",
	} {
		k.before = func(int, hostpci.Write) error { return errno }
		err := h.Remove(uuidA, mdev.RemoveOptions{})
		wantError(t, err, "remove mediated device "+uuidA, want)
		if !errors.Is(err, errno) {
			t.Errorf("%v is not %v", err, errno)
		}
	}
	tree.Process(99, 5, "vmm", "/dev/vfio/3")
	tree.Process(100, 6, "other", "/dev/vfio/3")
	before := len(k.writes)
	wantError(t, h.Remove(uuidA, mdev.RemoveOptions{}), "process 99 (vmm), process 100 (other) have its IOMMU group 3 open")
	if len(k.writes) != before {
		t.Error("a device in use was removed")
	}
	told := make(chan string, 1)
	k.before = func(int, hostpci.Write) error {
		if text := <-told; text == "" {
			t.Error("an empty notice")
		}
		return nil
	}
	check(t, h.WithPatience(0).Remove(uuidA, mdev.RemoveOptions{Force: true, Notice: func(text string) {
		wantError(t, errors.New(text), "the kernel waits", "process 99 (vmm)")
		told <- text
	}}))
	if k.there(uuidA) {
		t.Error("it is still there")
	}
}

func TestUUID(t *testing.T) {
	for s, want := range map[string]string{
		uuidA: uuidA, "83B8F4F2-509F-382F-3C1E-E6BFE0FA1001": uuidA,
		"": "", uuidA + "0": "", uuidA[1:]: "", "83b8f4f2509f382f3c1ee6bfe0fa1001": "", "../" + uuidA: "", uuidA + "\n": "",
	} {
		got, err := mdev.ParseUUID(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	a, b := mdev.NewUUID(), mdev.NewUUID()
	if got, err := mdev.ParseUUID(a); err != nil || got != a || a == b || a[14] != '4' {
		t.Errorf("new UUIDs %s, %s: %v", a, b, err)
	}
}
