package vfio

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/internal/feature"
)

// Node says where a device is.
type Node struct {
	Name    string // the kernel's: PCI address with domain, or a mediated device's UUID
	Address string // PCI address of the hardware: a mediated device's is its parent's, "" where that is no PCI function
	Group   int    // number of its IOMMU group, -1 if it is in none
	Cdev    string // its character device, "" if it has none
	// Emulated says that a driver does the DMA of a mediated device by accesses of its own, and nothing is pinned for the device until
	// that driver asks for it.
	Emulated bool
	NoIOMMU  bool   // the group stands for no IOMMU at all: nothing is translated
	Token    string // UUID that a VF needs whose PF has a VFIO driver too, and that such a PF is given, or ""
}

// groupPath returns the file of the node's group.
func (n Node) groupPath() string {
	if n.NoIOMMU {
		return fmt.Sprintf("/dev/vfio/noiommu-%d", n.Group)
	}
	return fmt.Sprintf("/dev/vfio/%d", n.Group)
}

// needGroup returns an error if the node is in no group.
func (n Node) needGroup() error {
	if n.Group >= 0 {
		return nil
	}
	return feature.Missing("IOMMU group of "+n.Name,
		"no IOMMU is in use: switch it on in the firmware's setup (VT-d, AMD-Vi) and boot with intel_iommu=on")
}

// needCdev returns an error if iommufd cannot have the node's device.
func (n Node) needCdev() error {
	switch {
	case n.NoIOMMU:
		return feature.Missing("iommufd for "+n.Name, "it has no IOMMU; use groups")
	case n.Cdev == "":
		return feature.Missing("character device of "+n.Name, "it comes with CONFIG_VFIO_DEVICE_CDEV, Linux 6.6; use groups")
	case n.Token != "":
		// BIND_IOMMUFD takes one from Linux 6.17 on, and one that is not null from 6.19; before, it asks for none.
		return feature.Missing("VF token of "+n.Name+" with iommufd", "use groups")
	}
	return nil
}

// Lookup finds device in sysfs, mounted at root: a PCI address with or without domain, a
// mediated device's UUID, or a path that ends in one of them.
func Lookup(root, device string) (Node, error) {
	dir, err := locate(root, device)
	if err != nil {
		return Node{}, err
	}
	n := Node{Name: filepath.Base(dir), Address: hardware(dir), Group: -1}
	if link, err := os.Readlink(filepath.Join(dir, "iommu_group")); err == nil {
		if n.Group, err = strconv.Atoi(filepath.Base(link)); err != nil {
			return Node{}, fmt.Errorf("%s: IOMMU group %q is no number", n.Name, link)
		}
	}
	// The group of an mdev with an emulated IOMMU is called vfio-noiommu too: its file tells.
	_, err = os.Stat(filepath.Join(root, "class/vfio", fmt.Sprintf("noiommu-%d", n.Group)))
	n.NoIOMMU = n.Group >= 0 && err == nil
	kind, _ := os.ReadFile(filepath.Join(root, "kernel/iommu_groups", strconv.Itoa(n.Group), "name"))
	n.Emulated = isUUID(n.Name) && !n.NoIOMMU && strings.TrimSpace(string(kind)) == "vfio-noiommu"
	// Kernels without character devices have the folder too (6.1), but no number in it.
	// Linux says by the name, from 7.3 on, which of them stand for no IOMMU, also where there is no group.
	numbers, err := filepath.Glob(filepath.Join(dir, "vfio-dev/*vfio*/dev"))
	if err == nil && len(numbers) > 0 {
		name := filepath.Base(filepath.Dir(numbers[0]))
		n.Cdev = "/dev/vfio/devices/" + name
		n.NoIOMMU = n.NoIOMMU || strings.HasPrefix(name, "noiommu-")
	}
	return n, nil
}

// hardware returns the PCI address of a device's folder in sysfs, or of the folder it is in: a mediated device is below its parent.
func hardware(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for _, name := range []string{filepath.Base(dir), filepath.Base(filepath.Dir(dir))} {
		if isMatch(addressPattern, name) {
			return name
		}
	}
	return ""
}

// addressPattern is a PCI address with its domain.
const addressPattern = `^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`

// locate returns the device's folder in sysfs.
func locate(root, device string) (string, error) {
	name := filepath.Base(device)
	if strings.Contains(device, "/") {
		if real, err := filepath.EvalSymlinks(device); err == nil {
			name = filepath.Base(real)
		}
	}
	var dir string
	switch {
	case isMatch(addressPattern, name):
		dir = filepath.Join(root, "bus/pci/devices", name)
	case isMatch(`^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`, name):
		dir = filepath.Join(root, "bus/pci/devices", "0000:"+name)
	case isUUID(name):
		dir = filepath.Join(root, "bus/mdev/devices", name)
	default:
		return "", fmt.Errorf("device %q is neither a PCI address (0000:01:00.0) nor a UUID nor a path to one", device)
	}
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("device %s: %w", filepath.Base(dir), err)
	}
	return dir, nil
}

// CheckToken returns an error unless text can be a Node's Token.
func CheckToken(text string) error {
	if !isUUID(text) {
		return fmt.Errorf("VF token %q is no UUID, such as uuidgen makes", text)
	}
	return nil
}

func isUUID(s string) bool { return isMatch(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, s) }

func isMatch(pattern, s string) bool {
	ok, err := regexp.MatchString(pattern, strings.ToLower(s))
	return ok && err == nil
}
