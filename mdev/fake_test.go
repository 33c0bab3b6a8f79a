package mdev_test

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
	"github.com/stile-vmm/stile/mdev"
)

// Functions of the made-up host.
const (
	disk    = "0000:01:00.0" // alone in group 1
	nic     = "0000:03:00.0" // in group 3
	sibling = "0000:03:00.1" // in group 3
	bridge  = "0000:00:1c.0"
	uuidA   = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
	uuidB   = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"
)

// kernel reacts to writes as hosttest.Kernel does, and to those to mediated devices.
type kernel struct {
	*hosttest.Kernel
	t *testing.T
	// before is asked before each write takes effect, after afterwards; either may be nil.
	before, after func(n int, w hostpci.Write) error
	writes        []hostpci.Write
}

func newKernel(t *testing.T, tree *hosttest.Tree) *kernel {
	return &kernel{t: t, Kernel: &hosttest.Kernel{Tree: tree, Matches: map[string]string{disk: "nvme", nic: "e1000e", sibling: "e1000e"}}}
}

// newHost returns a host with the module loaded.
func newHost(t *testing.T) (*hosttest.Tree, *kernel, *mdev.Host) {
	t.Helper()
	tree := hosttest.New(t)
	tree.Driver(hostpci.DonorDriver)
	tree.Add(hosttest.Function{Address: bridge, Bridge: true, Driver: "pcieport", Group: 4},
		hosttest.Function{Address: disk, Parent: bridge, Group: 1, Driver: "nvme", Class: "010802"},
		hosttest.Function{Address: nic, Group: 3, Driver: "e1000e"},
		hosttest.Function{Address: sibling, Group: 3, Driver: "e1000e"})
	k := newKernel(t, tree)
	return tree, k, k.host()
}

func (k *kernel) host() *mdev.Host { return mdev.New(k.Tree.Root).WithWriter(k, k.Load) }

func (k *kernel) Write(w hostpci.Write) error {
	n := len(k.writes)
	k.writes = append(k.writes, w)
	if k.before != nil {
		if err := k.before(n, w); err != nil {
			return &os.PathError{Op: "write", Path: w.Path, Err: err}
		}
	}
	if err := k.react(w); err != nil {
		return err
	}
	if k.after != nil {
		return k.after(n, w)
	}
	return nil
}

func (k *kernel) react(w hostpci.Write) error {
	switch path.Base(w.Path) {
	case "create":
		return k.create(path.Base(path.Dir(path.Dir(path.Dir(w.Path)))), w.Value)
	case "remove":
		return k.remove(path.Base(path.Dir(w.Path)))
	case "unbind":
		for _, uuid := range k.children(w.Value) {
			if err := k.remove(uuid); err != nil {
				return err
			}
		}
		k.Tree.Remove("/sys/class/mdev_bus/" + w.Value)
	case "attribute":
		return nil
	}
	if err := k.Kernel.Write(w); err != nil {
		return err
	}
	if address := w.Value; strings.HasPrefix(address, "0000:") && k.Tree.Driven(address) == hostpci.DonorDriver {
		k.parent(address)
	}
	return nil
}

// parent makes what the module makes of a function that is bound to it.
func (k *kernel) parent(address string) {
	dir := k.Tree.Folder(address) + "/mdev_supported_types/vfio-mdev-pci-type1"
	for name, text := range map[string]string{"name": "whole PCI function\n", "device_api": "vfio-pci\n", "available_instances": "1\n", "create": ""} {
		k.Tree.Write(dir+"/"+name, text)
	}
	k.Tree.Link("/sys/class/mdev_bus/"+address, k.Tree.Folder(address))
}

func (k *kernel) create(parent, uuid string) error {
	instances := k.Tree.Folder(parent) + "/mdev_supported_types/vfio-mdev-pci-type1/available_instances"
	if k.there(uuid) {
		return unix.EEXIST
	}
	if k.Tree.Read(instances) == "0" {
		return unix.EUSERS
	}
	group, err := os.Readlink(k.Tree.Path(k.Tree.Folder(parent) + "/iommu_group"))
	if err != nil {
		return unix.ENODEV
	}
	n := 0
	for _, c := range path.Base(group) {
		n = n*10 + int(c-'0')
	}
	k.Tree.Mediated(uuid, parent, hostpci.DonorDriver, n)
	k.Tree.Link(path.Dir(instances)+"/devices/"+uuid, k.Tree.Folder(uuid))
	k.Tree.Write(instances, "0\n")
	return nil
}

func (k *kernel) there(uuid string) bool {
	_, err := os.Lstat(k.Tree.Path("/sys/bus/mdev/devices/" + uuid))
	return err == nil
}

func (k *kernel) remove(uuid string) error {
	if !k.there(uuid) {
		return unix.ENOENT
	}
	dir := k.Tree.Folder(uuid)
	group, err := os.Readlink(k.Tree.Path(dir + "/iommu_group"))
	check(k.t, err)
	k.Tree.Remove("/sys/kernel/iommu_groups/" + path.Base(group) + "/devices/" + uuid)
	k.Tree.Remove("/sys/bus/mdev/devices/" + uuid)
	k.Tree.Remove(dir)
	types := path.Dir(dir) + "/mdev_supported_types/vfio-mdev-pci-type1"
	k.Tree.Remove(types + "/devices/" + uuid)
	k.Tree.Write(types+"/available_instances", "1\n")
	return nil
}

func (k *kernel) children(address string) (list []string) {
	entries, _ := os.ReadDir(k.Tree.Path("/sys/bus/mdev/devices"))
	for _, e := range entries {
		to, err := os.Readlink(k.Tree.Path("/sys/bus/mdev/devices/" + e.Name()))
		check(k.t, err)
		if path.Base(path.Dir(to)) == address {
			list = append(list, e.Name())
		}
	}
	return list
}

// wantState checks a function's driver, and that nothing is left of a wrap.
func wantUnwrapped(t *testing.T, tree *hosttest.Tree, h *mdev.Host, address, driver string) {
	t.Helper()
	if got := tree.Driven(address); got != driver {
		t.Errorf("%s is on %q, want %q", address, got, driver)
	}
	if got := tree.Read(tree.Folder(address) + "/driver_override"); got != "(null)" {
		t.Errorf("%s has override %q", address, got)
	}
	wantNothing(t, h)
}

func wantWrapped(t *testing.T, tree *hosttest.Tree, h *mdev.Host, address, uuid string) {
	t.Helper()
	devices, err := h.Devices()
	check(t, err)
	if tree.Driven(address) != hostpci.DonorDriver || !slices.ContainsFunc(devices, func(d mdev.Device) bool {
		return d.UUID == uuid && d.Parent == address && d.ParentGroup && d.Wrapped && !d.Emulated
	}) {
		t.Errorf("%s is on %q, devices %+v", address, tree.Driven(address), devices)
	}
	if stale := h.Stale(); len(stale) > 0 {
		t.Errorf("notes of %v are left", stale)
	}
}
