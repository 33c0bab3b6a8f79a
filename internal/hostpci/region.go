package hostpci

import (
	"fmt"
	"strconv"
	"strings"
)

// Region is a range of I/O addresses, both ends included, of a type such as msi or direct.
type Region struct {
	Start uint64 `json:"start"`
	End   uint64 `json:"end"`
	Type  string `json:"type"`
}

// ParseReserved parses a group's reserved_regions: lines "0x… 0x… type".
func ParseReserved(text []byte) ([]Region, error) {
	var list []Region
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %q is not of the form START END TYPE", strings.TrimSpace(line))
		}
		start, err1 := parseAddress(fields[0])
		end, err2 := parseAddress(fields[1])
		if err1 != nil || err2 != nil || end < start {
			return nil, fmt.Errorf("line %q has no valid range", strings.TrimSpace(line))
		}
		list = append(list, Region{start, end, fields[2]})
	}
	return list, nil
}

func parseAddress(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return 0, fmt.Errorf("%q has no 0x", s)
	}
	return strconv.ParseUint(digits, 16, 64)
}

// BAR is a base address register that the host has given an address.
type BAR struct {
	// Index is 0 to 5, or 6 for the expansion ROM.
	Index        int    `json:"index"`
	Address      uint64 `json:"address"`
	Size         uint64 `json:"size"` // bytes
	IO           bool   `json:"io,omitempty"`
	Wide         bool   `json:"64bit,omitempty"`
	Prefetchable bool   `json:"prefetchable,omitempty"`
}

// ROM is the Index of the expansion ROM.
const ROM = 6

// Kind says what is behind the BAR.
func (b BAR) Kind() string {
	kind := "memory 32-bit"
	switch {
	case b.Index == ROM:
		return "ROM"
	case b.IO:
		return "I/O ports"
	case b.Wide:
		kind = "memory 64-bit"
	}
	if b.Prefetchable {
		kind += " prefetchable"
	}
	return kind
}

// Flags of a line in resource, from linux/ioport.h.
const (
	resourceIO       = 0x100
	resourceMemory   = 0x200
	resourcePrefetch = 0x2000
	resource64       = 0x100000
)

// ParseResource parses a function's resource file: lines "0xSTART 0xEND 0xFLAGS" for
// BARs 0 to 5 and the ROM. Further lines (SR-IOV, bridge windows) are left out.
func ParseResource(text []byte) ([]BAR, error) {
	var list []BAR
	index := 0
	for line := range strings.Lines(string(text)) {
		if index > ROM {
			break
		}
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %q is not of the form START END FLAGS", strings.TrimSpace(line))
		}
		start, err1 := parseAddress(fields[0])
		end, err2 := parseAddress(fields[1])
		flags, err3 := parseAddress(fields[2])
		if err1 != nil || err2 != nil || err3 != nil || end < start || end-start == ^uint64(0) {
			return nil, fmt.Errorf("line %q has no valid range", strings.TrimSpace(line))
		}
		if flags&(resourceIO|resourceMemory) != 0 && end > start {
			list = append(list, BAR{index, start, end - start + 1, flags&resourceIO != 0, flags&resource64 != 0, flags&resourcePrefetch != 0})
		}
		index++
	}
	return list, nil
}
