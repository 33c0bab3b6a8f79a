package mdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// definitionsDir is where mdevctl(8) keeps definitions: PARENT/UUID.
const definitionsDir = "/etc/mdevctl.d"

// Definition is a mediated device that mdevctl knows, whether or not it is there.
type Definition struct {
	UUID   string `json:"uuid"`
	Parent string `json:"parent"`
	Type   string `json:"type"`
	// Start is auto or manual.
	Start string `json:"start"`
	// Attributes are written to the device's folder, in this order, once it is made.
	Attributes []Attribute `json:"attributes"`
}

// Attribute is a file of a device's folder and what to write to it.
type Attribute struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Definitions returns mdevctl's definitions, sorted by parent and UUID. Those that are
// not understood are left out, and named by the error.
func (h *Host) Definitions() ([]Definition, error) {
	list := []Definition{}
	parents, err := h.names(definitionsDir)
	faults := []error{err}
	for _, parent := range parents {
		if info, err := os.Stat(h.path(definitionsDir + "/" + parent)); err != nil || !info.IsDir() || strings.HasSuffix(parent, ".d") {
			continue // mdevctl's scripts
		}
		names, err := h.names(definitionsDir + "/" + parent)
		faults = append(faults, err)
		for _, name := range names {
			if !isUUID(name) {
				continue
			}
			d, err := h.definition(parent, name)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			list = append(list, *d)
		}
	}
	return list, errors.Join(faults...)
}

// definitionLimit bounds a definition's file, in bytes.
const definitionLimit = 1 << 20

func (h *Host) definition(parent, uuid string) (*Definition, error) {
	path := definitionsDir + "/" + parent + "/" + uuid
	info, err := os.Stat(h.path(path))
	if err == nil && info.Size() > definitionLimit {
		err = errors.New("too long")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(h.path(path))
	}
	var d *Definition
	if err == nil {
		d, err = parseDefinition(text)
	}
	if err != nil {
		return nil, fmt.Errorf("definition %s: %w", path, err)
	}
	d.Parent, d.UUID = parent, uuid
	return d, nil
}

// parseDefinition parses what mdevctl writes: attrs is a list of objects with a key each.
func parseDefinition(text []byte) (*Definition, error) {
	var file struct {
		Type  string              `json:"mdev_type"`
		Start string              `json:"start"`
		Attrs []map[string]string `json:"attrs"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	if file.Type == "" || strings.ContainsAny(file.Type, "/\x00") {
		return nil, fmt.Errorf("mdev_type %q is no type", file.Type)
	}
	d := &Definition{Type: file.Type, Start: file.Start, Attributes: []Attribute{}}
	for _, attr := range file.Attrs {
		for name, value := range attr {
			if len(attr) != 1 || !isAttribute(name) {
				return nil, fmt.Errorf("attribute %q is not understood", name)
			}
			d.Attributes = append(d.Attributes, Attribute{name, value})
		}
	}
	return d, nil
}

// isAttribute tells whether a name stays in its folder: there may be one folder in it,
// as vendors have for their attributes.
func isAttribute(name string) bool {
	parts := strings.Split(name, "/")
	return len(parts) <= 2 && !slices.ContainsFunc(parts, func(s string) bool { return s == "" || s[0] == '.' || strings.Contains(s, "\x00") })
}

// CreateDefined makes the device of a definition and sets its attributes. When that
// fails, the device is removed again.
func (h *Host) CreateDefined(d Definition) error {
	if _, err := h.Create(d.Parent, d.Type, d.UUID); err != nil {
		return err
	}
	for _, a := range d.Attributes {
		w := hostpci.Write{Path: busDevices + "/" + d.UUID + "/" + a.Name, Value: a.Value}
		if err := h.write.Write(w); err != nil {
			err = fmt.Errorf("set attribute %s of mediated device %s to %q: %s", a.Name, d.UUID, a.Value, common(err))
			return errors.Join(err, h.remove(d.UUID, nil, func(string) {}))
		}
	}
	return nil
}
