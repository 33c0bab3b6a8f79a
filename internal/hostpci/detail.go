package hostpci

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// Detail is what is asked of a single function only.
type Detail struct {
	// Path is the function's folder with all bridges above it.
	Path     string `json:"path"`
	Revision uint8  `json:"revision"`
	// NUMANode is -1 where there is none.
	NUMANode int `json:"numa_node"`
	// Override is the one driver that may bind, "" for any.
	Override string `json:"driver_override"`
	// HeaderType is 0 for endpoints, 1 for bridges, 2 for CardBus bridges; -1 if unknown.
	HeaderType    int   `json:"header_type"`
	Multifunction bool  `json:"multifunction"`
	BARs          []BAR `json:"bars"`
	// Resettable tells that the kernel can reset the function alone.
	Resettable bool `json:"resettable"`
	// ResetMethods are in the order in which the kernel tries them. Kernels before 5.15
	// do not tell them.
	ResetMethods []string `json:"reset_methods"`
	Upstream     *BDF     `json:"upstream,omitempty"`
	Uses         []Use    `json:"uses"`
	Problems     []string `json:"problems,omitempty"`
}

func (d *Detail) problem(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Problems = append(d.Problems, what+": "+plain(err))
	}
}

// Detail reads the rest of what is known of a function. Files that can't be read are
// named in Problems.
func (h *Host) Detail(s *Snapshot, f *Function) *Detail {
	dir := functionPath(f.Address)
	d := &Detail{NUMANode: -1, HeaderType: -1, BARs: []BAR{}, ResetMethods: []string{}, Uses: []Use{}}
	if to, err := h.tree.link(dir); err == nil {
		d.Path = filepath.Join(pciDevices, to)
	}
	if up, ok := h.upstream(f.Address); ok {
		d.Upstream = &up
	}
	text, err := h.tree.text(dir + "/revision")
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 8)
		d.Revision = uint8(n)
	}
	d.problem("revision", err)
	if text, err = h.tree.text(dir + "/numa_node"); err == nil {
		d.NUMANode, err = strconv.Atoi(text)
	}
	d.problem("numa_node", err)
	d.Override, err = h.override(f.Address)
	d.problem("driver_override", err)
	d.readBARs(h, dir)
	if text, err = h.tree.text(dir + "/reset_method"); err == nil {
		d.ResetMethods = append(d.ResetMethods, strings.Fields(text)...)
	}
	d.problem("reset_method", err)
	d.Resettable = len(d.ResetMethods) > 0 || h.tree.exists(dir+"/reset")
	c, err := h.config(f.Address)
	d.problem("config", err)
	if c.alive() {
		d.HeaderType, d.Multifunction = int(c[regHeaderType]&^multiFuncBit), c.multifunction()
	} else if len(c) > 0 {
		d.Problems = append(d.Problems, "the function does not answer: its configuration space reads all ones")
	}
	d.Uses = append(d.Uses, h.Uses(s, f)...)
	return d
}

func (d *Detail) readBARs(h *Host, dir string) {
	text, err := h.tree.bytes(dir+"/resource", attributeSize)
	if err == nil {
		var bars []BAR
		bars, err = ParseResource(text)
		d.BARs = append(d.BARs, bars...)
	}
	d.problem("resource", err)
}

// override returns the driver that alone may bind, "" for any.
func (h *Host) override(b BDF) (string, error) {
	text, err := h.tree.text(functionPath(b) + "/driver_override")
	if err != nil {
		return "", fmt.Errorf("read driver_override of %v: %w", b, err)
	}
	if text == "(null)" {
		return "", nil
	}
	return text, nil
}
