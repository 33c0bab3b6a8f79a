package hostpci

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Function is a PCI function of the host.
type Function struct {
	Address   BDF   `json:"address"`
	ID        ID    `json:"id"`
	Subsystem ID    `json:"subsystem"`
	Class     Class `json:"class"`
	// VendorName, DeviceName and ClassName are empty until Host.Name fills them.
	VendorName string `json:"vendor_name,omitempty"`
	DeviceName string `json:"device_name,omitempty"`
	ClassName  string `json:"class_name,omitempty"`
	// Driver is empty where none is bound.
	Driver string `json:"driver"`
	// Group is the number of the IOMMU group, nil where there is none.
	Group *int `json:"group"`
	// Bridge tells that the function is a PCI or CardBus bridge, which no one can have.
	Bridge bool `json:"bridge"`
	// PhysicalFunction is set for an SR-IOV virtual function.
	PhysicalFunction *BDF `json:"physical_function,omitempty"`
	// VirtualFunctions are those that exist now.
	VirtualFunctions []BDF `json:"virtual_functions,omitempty"`
	// VFIODevice is the name of the VFIO device ("vfio0") that the driver made.
	VFIODevice string `json:"vfio_device,omitempty"`
	// MediatedParent tells that mediated devices can be made of the function.
	MediatedParent bool `json:"mediated_parent,omitempty"`
	// Status says in one word how the function counts for its group's viability.
	Status Status `json:"status"`
	// Problems are files that could not be read or understood.
	Problems []string `json:"problems,omitempty"`
}

func (f *Function) problem(what string, err error) {
	f.Problems = append(f.Problems, what+": "+plain(err))
}

// plain is an error without the path of a file.
func plain(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// function reads the function at b, nil if it is gone. The folder's listing tells which
// of the files are worth asking for.
func (h *Host) function(b BDF) *Function {
	dir := functionPath(b)
	names, err := h.tree.list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f := &Function{Address: b}
	if err != nil {
		f.problem("folder", err)
		return f
	}
	if !h.readUevent(f, dir) {
		return nil
	}
	for _, name := range names {
		h.readEntry(f, dir, name)
	}
	f.Bridge = f.Bridge || f.Class>>8 == classBridgePCI
	slices.SortFunc(f.VirtualFunctions, BDF.Compare)
	f.Status = statusOf(f)
	return f
}

// readUevent takes the numbers from uevent, which has them all in one file. It returns
// false if the function is gone.
func (h *Host) readUevent(f *Function, dir string) bool {
	text, err := h.tree.text(dir + "/uevent")
	if err != nil {
		if gone(err) && !h.tree.exists(dir) {
			return false
		}
		f.problem("uevent", err)
		return true
	}
	found := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		ok := true
		switch key {
		case "PCI_CLASS":
			var n uint32
			n, ok = parseHex(value)
			f.Class = Class(n)
			ok = ok && n <= 0xffffff
		case "PCI_ID":
			f.ID, ok = parseID(value)
		case "PCI_SUBSYS_ID":
			f.Subsystem, ok = parseID(value)
		default:
			continue
		}
		if ok {
			found++
		}
	}
	if found < 3 {
		f.problem("uevent", errors.New("not understood"))
	}
	return true
}

// gone tells whether an error means that the function was taken away: its files turn
// into ENOENT, or into ENODEV where they were open already.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func (h *Host) readEntry(f *Function, dir, name string) {
	switch name {
	case "driver":
		f.Driver = h.tree.linkName(dir + "/driver")
	case "iommu_group":
		f.Group = h.groupLink(f, dir)
	case "secondary_bus_number":
		f.Bridge = true
	case "physfn":
		if b, ok := parseBDF(h.tree.linkName(dir + "/physfn")); ok {
			f.PhysicalFunction = &b
		}
	case "vfio-dev":
		f.VFIODevice = h.vfioDevice(dir)
	case "mdev_supported_types":
		f.MediatedParent = true
	default:
		if strings.HasPrefix(name, "virtfn") {
			if b, ok := parseBDF(h.tree.linkName(dir + "/" + name)); ok {
				f.VirtualFunctions = append(f.VirtualFunctions, b)
			}
		}
	}
}

func (h *Host) groupLink(f *Function, dir string) *int {
	name := h.tree.linkName(dir + "/iommu_group")
	n, err := strconv.Atoi(name)
	if err != nil || n < 0 {
		if name != "" {
			f.problem("iommu_group", errors.New("not a number: "+strconv.Quote(name)))
		}
		return nil
	}
	return &n
}

// vfioDevice returns the name of the VFIO device below a device's folder: vfio3, or noiommu-vfio3 where it stands for no IOMMU.
func (h *Host) vfioDevice(dir string) string {
	names, _ := h.tree.list(dir + "/vfio-dev")
	for _, name := range names {
		if digits, ok := strings.CutPrefix(strings.TrimPrefix(name, "noiommu-"), "vfio"); ok && digits != "" {
			return name
		}
	}
	return ""
}
