package mdev

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// Parent is a device that mediated devices can be made of.
type Parent struct {
	// Name is that of its folder: a PCI address, or what its driver calls it.
	Name string `json:"name"`
	// Function is the address of a PCI function, nil for others.
	Function *hostpci.BDF `json:"-"`
	Driver   string       `json:"driver"`
	// Group is the number of its IOMMU group, nil where it has none.
	Group *int   `json:"group"`
	Types []Type `json:"types"`
}

// Type is what a parent can make.
type Type struct {
	// ID is the name of its folder, Name what its driver calls it, if anything.
	ID          string `json:"id"`
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	// DeviceAPI is vfio-pci, vfio-ccw, …
	DeviceAPI string `json:"device_api"`
	// Available is how many more can be made now; -1 where the driver does not tell.
	Available int `json:"available"`
	// Devices are the UUIDs of those that were made.
	Devices []string `json:"devices"`
}

// Parents returns the devices that mediated devices can be made of, sorted by name.
func (h *Host) Parents() ([]Parent, error) {
	names, err := h.names(parentClass)
	if err != nil {
		return nil, fmt.Errorf("list parents of mediated devices: %w", err)
	}
	list := []Parent{}
	for _, name := range names {
		p, err := h.parent(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, *p)
	}
	return list, nil
}

// Parent returns the parent with a name, or at a path of sysfs. PCI addresses may leave
// out the domain.
func (h *Host) Parent(name string) (*Parent, error) {
	base := filepath.Base(name)
	for _, candidate := range []string{base, "0000:" + base} {
		if h.exists(parentClass + "/" + candidate) {
			return h.parent(candidate)
		}
	}
	names, _ := h.names(parentClass)
	if len(names) == 0 {
		return nil, fmt.Errorf("no mediated devices can be made of %s, nor of anything on this host: no driver that makes them is bound; a whole PCI function is wrapped with stile mdev wrap", name)
	}
	return nil, fmt.Errorf("no mediated devices can be made of %s, only of %s; a whole PCI function is wrapped with stile mdev wrap", name, strings.Join(names, ", "))
}

func (h *Host) parent(name string) (*Parent, error) {
	dir := parentClass + "/" + name
	p := &Parent{Name: name, Driver: h.linkName(dir + "/driver"), Group: h.group(dir), Types: []Type{}}
	if b, err := hostpci.ParseBDF(name); err == nil {
		p.Function = &b
	}
	names, err := h.names(dir + "/" + supported)
	if err != nil {
		return nil, fmt.Errorf("types of %s: %w", name, err)
	}
	for _, id := range names {
		p.Types = append(p.Types, h.typeAt(dir+"/"+supported, id))
	}
	return p, nil
}

// group is the number of the IOMMU group that a device's own link leads to.
func (h *Host) group(dir string) *int {
	n, err := strconv.Atoi(h.linkName(dir + "/iommu_group"))
	if err != nil || n < 0 {
		return nil
	}
	return &n
}

func (h *Host) typeAt(dir, id string) Type {
	dir += "/" + id
	t := Type{ID: id, Name: h.text(dir + "/name"), Description: h.text(dir + "/description"),
		DeviceAPI: h.text(dir + "/device_api"), Available: -1, Devices: []string{}}
	if n, err := strconv.Atoi(h.text(dir + "/available_instances")); err == nil && n >= 0 {
		t.Available = n
	}
	names, _ := h.names(dir + "/devices")
	t.Devices = append(t.Devices, slices.DeleteFunc(names, func(s string) bool { return !isUUID(s) })...)
	return t
}

// find returns the type that a user means: its ID, or the one type whose ID ends so.
func (p *Parent) find(id string) (*Type, error) {
	var found []*Type
	var ids []string
	for i := range p.Types {
		t := &p.Types[i]
		ids = append(ids, t.ID)
		if t.ID == id {
			return t, nil
		}
		if strings.HasSuffix(t.ID, "-"+id) {
			found = append(found, t)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return nil, fmt.Errorf("%s has no type %s of mediated devices; it has %s", p.Name, id, strings.Join(ids, ", "))
}
