package hostpci

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// BDF is the address of a PCI function: domain, bus, device and function number.
// Domains beyond ffff exist: Hyper-V and Intel's VMD make them.
type BDF struct {
	Domain   uint32
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParseBDF parses an address as sysfs writes it, such as 0000:01:00.0 or 10000:e1:00.0.
// Upper-case hexadecimal is taken as well.
func ParseBDF(s string) (BDF, error) {
	b, ok := parseBDF(s)
	if ok {
		return b, nil
	}
	if _, ok := parseBDF("0000:" + s); ok {
		return BDF{}, fmt.Errorf("PCI address %q has no domain; write 0000:%s", s, s)
	}
	return BDF{}, fmt.Errorf("%q is not a PCI address such as 0000:01:00.0", s)
}

// CheckName refuses what can't be the name of a device: an address with or without domain, the UUID of a mediated
// device, or a path in sysfs. It looks at no host.
func CheckName(name string) error {
	_, full := parseBDF(name)
	_, short := parseBDF("0000:" + name)
	if full || short || isUUID(strings.ToLower(name)) || strings.Contains(name, "/") {
		return nil
	}
	return fmt.Errorf("%q is neither a PCI address such as 0000:01:00.0 nor the UUID of a mediated device", name)
}

func parseBDF(s string) (BDF, bool) {
	n := len(s) - len(":00:00.0")
	if n < 4 || n > 8 || n > 4 && s[0] == '0' || s[n] != ':' || s[n+3] != ':' || s[n+6] != '.' {
		return BDF{}, false
	}
	domain, ok1 := parseHex(s[:n])
	bus, ok2 := parseHex(s[n+1 : n+3])
	device, ok3 := parseHex(s[n+4 : n+6])
	function, ok4 := parseHex(s[n+7:])
	if !ok1 || !ok2 || !ok3 || !ok4 || device > 31 || function > 7 {
		return BDF{}, false
	}
	return BDF{domain, uint8(bus), uint8(device), uint8(function)}, true
}

// parseHex parses up to 8 hexadecimal digits, without sign, prefix or underscore.
func parseHex(s string) (uint32, bool) {
	var n uint32
	for i := range len(s) {
		c := s[i] | 0x20
		switch {
		case s[i] >= '0' && s[i] <= '9':
			n = n<<4 | uint32(s[i]-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint32(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, len(s) > 0 && len(s) <= 8
}

// String returns the address as sysfs writes it.
func (b BDF) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", b.Domain, b.Bus, b.Device, b.Function)
}

// MarshalText implements encoding.TextMarshaler.
func (b BDF) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *BDF) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBDF(string(text))
	return err
}

// Compare orders addresses as lspci does.
func (b BDF) Compare(o BDF) int {
	return cmp.Or(cmp.Compare(b.Domain, o.Domain), cmp.Compare(b.Bus, o.Bus),
		cmp.Compare(b.Device, o.Device), cmp.Compare(b.Function, o.Function))
}

// sameSlot tells whether two addresses are functions of one device.
func (b BDF) sameSlot(o BDF) bool {
	return b.Domain == o.Domain && b.Bus == o.Bus && b.Device == o.Device
}

// ID is a vendor and device number.
type ID struct{ Vendor, Device uint16 }

// String returns the ID as lspci -n writes it: 8086:10d3.
func (id ID) String() string { return fmt.Sprintf("%04x:%04x", id.Vendor, id.Device) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// parseID parses the form of the PCI_ID line in uevent: 8086:10D3.
func parseID(s string) (ID, bool) {
	v, d, ok := strings.Cut(s, ":")
	vendor, ok1 := parseHex(v)
	device, ok2 := parseHex(d)
	if !ok || !ok1 || !ok2 || vendor > 0xffff || device > 0xffff {
		return ID{}, false
	}
	return ID{uint16(vendor), uint16(device)}, true
}

// Class is a class code: base class, subclass and programming interface.
type Class uint32

// String returns the six hexadecimal digits: 010802.
func (c Class) String() string { return fmt.Sprintf("%06x", uint32(c)) }

// MarshalText implements encoding.TextMarshaler.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

const (
	classDisplays  = 0x03   // base class
	classBridges   = 0x06   // base class: host bridges, ISA bridges, PCI bridges, …
	classBridgePCI = 0x0604 // base class and subclass
)

// isUUID tells whether s is a UUID in its 36-character form, as mdev wants it.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash {
			if s[i] != '-' {
				return false
			}
		} else if _, err := strconv.ParseUint(s[i:i+1], 16, 8); err != nil {
			return false
		}
	}
	return true
}
