package hostpci

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/pci"
)

// idFiles are where distributions keep the list of names.
func idFiles() []string { return []string{"/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"} }

// Name fills in the names of functions: from pci.ids where the host has it, and for what that does not know from a list of that kind
// that comes with stile.
func (h *Host) Name(functions ...*Function) {
	var text []byte
	for _, path := range idFiles() {
		var err error
		if text, err = h.tree.file(path); err == nil {
			break
		}
	}
	names := lookUp(text, functions)
	for _, f := range functions {
		vendor, device := known(f.ID)
		f.VendorName = cmp.Or(names.vendors[f.ID.Vendor], vendor)
		f.DeviceName = cmp.Or(names.devices[f.ID], device)
		f.ClassName = cmp.Or(names.classes[f.Class>>8], className(f.Class))
	}
}

// known returns the names that come with stile, "" for what they don't have. Vendors are in the order of their numbers, devices are not always.
func known(id ID) (vendor, device string) {
	at, found := slices.BinarySearchFunc(pci.IDs, id.Vendor, func(v pci.Vendor, n uint16) int { return cmp.Compare(v.ID, n) })
	if !found {
		return "", ""
	}
	v := pci.IDs[at]
	if i := slices.IndexFunc(v.Devices, func(d pci.Device) bool { return d.ID == id.Device }); i >= 0 {
		device = v.Devices[i].Name
	}
	return v.Name, device
}

// names holds what pci.ids says of some functions. A key that is there is asked for.
type names struct {
	vendors map[uint16]string
	devices map[ID]string
	classes map[Class]string // base class and subclass
}

func newNames(functions []*Function) names {
	n := names{make(map[uint16]string), make(map[ID]string), make(map[Class]string)}
	for _, f := range functions {
		n.vendors[f.ID.Vendor], n.devices[f.ID], n.classes[f.Class>>8] = "", "", ""
	}
	return n
}

// lookUp takes the functions' names from the text of pci.ids. It goes through the text
// once and keeps nothing that was not asked for: the file has 40,000 lines.
//
// A vendor is a line "8086  Intel", its devices are indented by a tab and subsystems by
// two. Classes come last: "C 01  Mass storage", subclasses indented by a tab.
func lookUp(text []byte, functions []*Function) names {
	n := newNames(functions)
	var vendor uint16 // the one whose devices follow, if inVendor
	var class Class   // the base class whose subclasses follow, if inClass
	var inVendor, inClass bool
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		switch {
		case len(line) == 0 || line[0] == '#':
		case line[0] != '\t':
			inVendor, inClass = false, false
			if base, name, ok := entry(bytes.TrimPrefix(line, []byte("C ")), 2); ok && line[0] == 'C' && line[1] == ' ' {
				inClass, class = true, Class(base)
				n.nameBase(class, name)
			} else if id, name, ok := entry(line, 4); ok {
				vendor = uint16(id)
				if _, inVendor = n.vendors[vendor]; inVendor {
					n.vendors[vendor] = string(name)
				}
			}
		case inVendor && len(line) > 1 && line[1] != '\t':
			n.nameDevice(vendor, line[1:])
		case inClass && len(line) > 1 && line[1] != '\t':
			n.nameClass(class, line[1:])
		}
	}
	return n
}

func (n names) nameDevice(vendor uint16, line []byte) {
	number, name, ok := entry(line, 4)
	id := ID{vendor, uint16(number)}
	if _, wanted := n.devices[id]; ok && wanted {
		n.devices[id] = string(name)
	}
}

// nameBase gives subclasses their base class's name until their own is found.
func (n names) nameBase(base Class, name []byte) {
	for c, have := range n.classes {
		if c>>8 == base && have == "" {
			n.classes[c] = string(name)
		}
	}
}

func (n names) nameClass(base Class, line []byte) {
	sub, name, ok := entry(line, 2)
	c := base<<8 | Class(sub)
	if _, wanted := n.classes[c]; ok && wanted {
		n.classes[c] = string(name)
	}
}

// entry splits a line into a number of some digits and a name, two spaces between them.
func entry(line []byte, digits int) (uint32, []byte, bool) {
	if len(line) < digits+3 || line[digits] != ' ' || line[digits+1] != ' ' {
		return 0, nil, false
	}
	n, ok := parseHex(string(line[:digits]))
	name := bytes.TrimSpace(line[digits:])
	return n, name, ok && len(name) > 0
}

// Title is what a person calls the function: names where known, numbers where not.
func (f *Function) Title() string {
	var parts []string
	if f.ClassName != "" {
		parts = append(parts, f.ClassName+":")
	}
	switch {
	case f.VendorName != "" && f.DeviceName != "":
		parts = append(parts, f.VendorName, f.DeviceName)
	case f.VendorName != "":
		parts = append(parts, f.VendorName)
	case f.ClassName == "":
		parts = append(parts, "class", f.Class.String())
	}
	return strings.TrimSuffix(strings.Join(parts, " "), ":")
}
