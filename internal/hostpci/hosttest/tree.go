// Package hosttest makes hosts for tests: a folder that looks like /sys, /proc and /dev
// of a machine, and a kernel that reacts to what is written there.
package hosttest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Tree is a made-up file system. Its methods end the test when they fail.
type Tree struct {
	Root string
	tb   testing.TB
	dirs map[string]string // a function's or mediated device's folder, by name
}

// Self is the number of the process that the tree's /proc/self is, SelfStart its start.
const (
	Self      = 4242
	SelfStart = 777

	wrapper = "vfio-mdev-pci" // hostpci.DonorDriver
)

// New returns a tree with a boot ID and this process, and without functions.
func New(tb testing.TB) *Tree {
	tb.Helper()
	t := &Tree{Root: tb.TempDir(), tb: tb, dirs: make(map[string]string)}
	t.Write("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
	t.Write("/proc/self/mountinfo", "")
	t.Process(Self, SelfStart, "stile")
	t.Write("/proc/self/stat", stat(Self, SelfStart, "stile"))
	t.Mkdir("/sys/bus/pci/devices")
	t.Mkdir("/sys/kernel/iommu_groups")
	t.Write("/sys/bus/pci/drivers_probe", "")
	t.Driver("pcieport")
	return t
}

func (t *Tree) check(err error) {
	t.tb.Helper()
	if err != nil {
		t.tb.Fatal(err)
	}
}

// Copy returns a copy of the tree as it is now.
func (t *Tree) Copy() *Tree {
	t.tb.Helper()
	c := &Tree{Root: t.tb.TempDir(), tb: t.tb, dirs: t.dirs}
	t.check(filepath.WalkDir(t.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := c.Root + strings.TrimPrefix(path, t.Root)
		switch d.Type() {
		case fs.ModeDir:
			return os.MkdirAll(to, 0o755)
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			return errors.Join(err, os.Symlink(link, to))
		}
		text, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(to, text, 0o644))
	}))
	return c
}

// Path returns where a path of the made-up host is.
func (t *Tree) Path(path string) string { return t.Root + path }

// Mkdir makes a folder and those above it.
func (t *Tree) Mkdir(path string) {
	t.tb.Helper()
	t.check(os.MkdirAll(t.Path(path), 0o755))
}

// Write makes or replaces a file.
func (t *Tree) Write(path, text string) {
	t.tb.Helper()
	t.Mkdir(filepath.Dir(path))
	t.check(os.WriteFile(t.Path(path), []byte(text), 0o644))
}

// Read returns a file without surrounding space.
func (t *Tree) Read(path string) string {
	t.tb.Helper()
	b, err := os.ReadFile(t.Path(path))
	t.check(err)
	return strings.TrimSpace(string(b))
}

// Link makes a relative link, as sysfs has them, to another path of the tree.
func (t *Tree) Link(path, to string) {
	t.tb.Helper()
	t.Mkdir(filepath.Dir(path))
	rel, err := filepath.Rel(filepath.Dir(path), to)
	t.check(err)
	t.Remove(path)
	t.check(os.Symlink(rel, t.Path(path)))
}

// Remove removes a file or folder, which need not be there.
func (t *Tree) Remove(path string) {
	t.tb.Helper()
	t.check(os.RemoveAll(t.Path(path)))
}

// Function describes a PCI function.
type Function struct {
	Address   string // 0000:01:00.0
	Parent    string // the bridge above, "" on the root bus
	ID        string // 8086:10D3, which is also the default
	Subsystem string
	Class     string // six digits; 020000 if empty
	Driver    string
	// Group is the IOMMU group, 0 for none: number groups from 1.
	Group  int
	Bridge bool
	Config []byte
	// Files are further files, by name, such as resource and numa_node.
	Files map[string]string
}

// Folder returns the folder of a function or mediated device.
func (t *Tree) Folder(name string) string {
	t.tb.Helper()
	dir, ok := t.dirs[name]
	if !ok {
		t.tb.Fatalf("no device %s in the tree", name)
	}
	return dir
}

// Add adds functions, parents before children, with their drivers and groups.
func (t *Tree) Add(functions ...Function) {
	t.tb.Helper()
	for _, f := range functions {
		t.add(f)
	}
}

func (t *Tree) add(f Function) {
	t.tb.Helper()
	above := "/sys/devices/pci0000:00"
	if f.Parent != "" {
		above = t.Folder(f.Parent)
	}
	dir := above + "/" + f.Address
	t.dirs[f.Address] = dir
	class := or(f.Class, "020000")
	if f.Bridge {
		class = or(f.Class, "060400")
		t.Write(dir+"/secondary_bus_number", "1\n")
	}
	t.Write(dir+"/uevent", fmt.Sprintf("PCI_CLASS=%s\nPCI_ID=%s\nPCI_SUBSYS_ID=%s\nPCI_SLOT_NAME=%s\n",
		strings.ToUpper(strings.TrimLeft(class, "0")), or(f.ID, "8086:10D3"), or(f.Subsystem, "8086:0000"), f.Address))
	t.Write(dir+"/driver_override", "(null)\n")
	if f.Config != nil {
		t.Write(dir+"/config", string(f.Config))
	}
	for name, text := range f.Files {
		t.Write(dir+"/"+name, text)
	}
	t.Link("/sys/bus/pci/devices/"+f.Address, dir)
	if f.Group > 0 {
		t.join(f.Address, f.Group)
	}
	if f.Driver != "" {
		t.Driver(f.Driver)
		t.Bind(f.Address, f.Driver)
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (t *Tree) join(name string, group int) {
	t.tb.Helper()
	t.Link(t.belong(name, group)+"/devices/"+name, t.Folder(name))
}

// belong makes a device say that it is in a group, whose folder it returns.
func (t *Tree) belong(name string, group int) string {
	t.tb.Helper()
	dir := "/sys/kernel/iommu_groups/" + strconv.Itoa(group)
	if _, err := os.Stat(t.Path(dir)); err != nil {
		t.Group(group, "", "DMA-FQ")
	}
	t.Link(t.Folder(name)+"/iommu_group", dir)
	return dir
}

// Group makes an IOMMU group. The name is mostly empty.
func (t *Tree) Group(id int, name, kind string) {
	t.tb.Helper()
	dir := "/sys/kernel/iommu_groups/" + strconv.Itoa(id)
	t.Mkdir(dir + "/devices")
	t.Write(dir+"/type", kind+"\n")
	t.Write(dir+"/reserved_regions", "0x00000000fee00000 0x00000000feefffff msi\n")
	if name != "" {
		t.Write(dir+"/name", name+"\n")
	}
}

// Driver makes a driver of the PCI bus that is loaded.
func (t *Tree) Driver(name string) {
	t.tb.Helper()
	t.Write("/sys/bus/pci/drivers/"+name+"/bind", "")
	t.Write("/sys/bus/pci/drivers/"+name+"/unbind", "")
}

// Bind gives a function to a driver, as the kernel does it.
func (t *Tree) Bind(address, driver string) {
	t.tb.Helper()
	dir := t.Folder(address)
	t.Link(dir+"/driver", "/sys/bus/pci/drivers/"+driver)
	if strings.HasSuffix(driver, "vfio-pci") {
		t.Mkdir(dir + "/vfio-dev/" + vfioName(address))
	}
	if driver == "vfio-mdev-pci" {
		t.Mkdir(dir + "/mdev_supported_types/vfio-mdev-pci-type1")
	}
}

// vfioName makes a stable name of the VFIO device from a function's address.
func vfioName(address string) string {
	n := 0
	for _, c := range address {
		n = (n*31 + int(c)) % 9973
	}
	return "vfio" + strconv.Itoa(n)
}

// VFIONode returns the path of a function's VFIO device file.
func (t *Tree) VFIONode(address string) string { return "/dev/vfio/devices/" + vfioName(address) }

// Unbind takes a function from its driver.
func (t *Tree) Unbind(address string) {
	t.tb.Helper()
	dir := t.Folder(address)
	t.Remove(dir + "/driver")
	t.Remove(dir + "/vfio-dev")
	t.Remove(dir + "/mdev_supported_types")
}

// Driven returns the driver of a function, "" for none.
func (t *Tree) Driven(address string) string {
	to, err := os.Readlink(t.Path(t.Folder(address) + "/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// Mediated makes a mediated device of a parent, in a group. That of a wrapped function is not named in the group's folder.
func (t *Tree) Mediated(uuid, parent, driver string, group int) {
	t.tb.Helper()
	above, ok := t.dirs[parent]
	if !ok {
		above = "/sys/devices/virtual/" + parent
	}
	dir := above + "/" + uuid
	t.dirs[uuid] = dir
	t.Mkdir(dir + "/vfio-dev/" + vfioName(uuid))
	t.Link(dir+"/mdev_type", above+"/mdev_supported_types/"+driver+"-type1")
	t.Link(dir+"/driver", "/sys/bus/mdev/drivers/"+driver)
	t.Link("/sys/bus/mdev/devices/"+uuid, dir)
	if driver == wrapper {
		t.belong(uuid, group)
		return
	}
	t.join(uuid, group)
}

// Virtual makes a function the virtual function number n of a physical one.
func (t *Tree) Virtual(virtual, physical string, n int) {
	t.tb.Helper()
	t.Link(t.Folder(virtual)+"/physfn", t.Folder(physical))
	t.Link(fmt.Sprintf("%s/virtfn%d", t.Folder(physical), n), t.Folder(virtual))
}

// Unplug takes a function away.
func (t *Tree) Unplug(address string) {
	t.tb.Helper()
	dir := t.Folder(address)
	t.Remove("/sys/bus/pci/devices/" + address)
	if to, err := os.Readlink(t.Path(dir + "/iommu_group")); err == nil {
		t.Remove("/sys/kernel/iommu_groups/" + filepath.Base(to) + "/devices/" + address)
	}
	t.Remove(dir)
}

// Process makes a process that has files open.
func (t *Tree) Process(pid int, start uint64, command string, files ...string) {
	t.tb.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	t.Write(dir+"/stat", stat(pid, start, command))
	t.Write(dir+"/comm", command+"\n")
	t.Mkdir(dir + "/fd")
	for i, file := range files {
		t.check(os.Symlink(file, t.Path(fmt.Sprintf("%s/fd/%d", dir, i))))
	}
}

// stat is a line of proc_pid_stat(5).
func stat(pid int, start uint64, command string) string {
	return fmt.Sprintf("%d (%s) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 %d 1 1\n", pid, command, start)
}

// Disk makes a disk of a function. number is its device number, such as 259:0.
func (t *Tree) Disk(address, name, number string) {
	t.tb.Helper()
	dir := t.Folder(address) + "/nvme/nvme0/" + name
	t.Write(dir+"/dev", number+"\n")
	t.Mkdir(dir + "/holders")
	t.Link("/sys/class/block/"+name, dir)
}

// Interface makes a network interface of a function, with flags such as 0x1003.
func (t *Tree) Interface(address, name, flags string) {
	t.tb.Helper()
	dir := t.Folder(address) + "/net/" + name
	t.Write(dir+"/flags", flags+"\n")
	t.Link("/sys/class/net/"+name, dir)
}
