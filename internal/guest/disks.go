package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/vmm"
)

// ParseDisk reads PATH[,ro][,cow][,direct][,serial=S][,format=raw|qcow2][,backing=PATH]. A comma in PATH is written twice.
func ParseDisk(text string) (vmm.Disk, error) {
	const comma = "\x00" // in no path
	words := strings.Split(strings.ReplaceAll(text, ",,", comma), ",")
	d := vmm.Disk{Options: disk.Options{Path: strings.ReplaceAll(words[0], comma, ",")}}
	var faults []error
	if d.Path == "" {
		faults = append(faults, fmt.Errorf("--disk %q: must be PATH, with options behind it such as ,ro or ,cow", text))
	}
	for _, word := range words[1:] {
		key, value, hasValue := strings.Cut(strings.ReplaceAll(word, comma, ","), "=")
		switch {
		case key == "ro" && !hasValue:
			d.ReadOnly = true
		case key == "cow" && !hasValue:
			d.COW = true
		case key == "direct" && !hasValue:
			d.Direct = true
		case key == "serial" && value != "":
			d.Serial = value
		case key == "backing" && value != "":
			d.Backing = value
		case key == "format" && value != "":
			d.Format = disk.Format(value)
		default:
			faults = append(faults, fmt.Errorf("--disk %q: option %q is unknown; there are ro, cow, direct, serial=, format= and backing=", text, word))
		}
	}
	return d, errors.Join(faults...)
}

// DiskText returns what ParseDisk reads.
func DiskText(d vmm.Disk) string {
	escape := func(s string) string { return strings.ReplaceAll(s, ",", ",,") }
	text := escape(d.Path)
	for _, option := range []struct {
		set  bool
		word string
	}{
		{d.ReadOnly, "ro"}, {d.COW, "cow"}, {d.Direct, "direct"},
		{d.Serial != "", "serial=" + escape(d.Serial)}, {d.Format != "", "format=" + string(d.Format)},
		{d.Backing != "", "backing=" + escape(d.Backing)},
	} {
		if option.set {
			text += "," + option.word
		}
	}
	return text
}

// rootIsImage reports whether the root is a disk image, not a folder.
func (s Spec) rootIsImage() bool {
	if s.rootIsWord() {
		return false
	}
	info, err := os.Stat(s.Root)
	return err == nil && !info.IsDir()
}

// disks returns the guest's disks. A root is the first; what is written to it is thrown away.
func (s Spec) disks() []vmm.Disk {
	if !s.rootIsImage() {
		return s.Disks
	}
	root := vmm.Disk{Options: disk.Options{Path: s.Root, COW: true}}
	return append([]vmm.Disk{root}, s.Disks...)
}

// rootDevice is the guest's name of the first disk.
const rootDevice = "/dev/vda"

// validateDisks opens the images, which finds all that is wrong with them: they are locked by somebody else, damaged,
// or not what they are said to be.
func (s Spec) validateDisks() error {
	disks := s.disks()
	cfg := vmm.Config{Kernel: "unknown", Memory: DefaultMemory, Disks: disks}
	faults := []error{cfg.Validate()}
	disks = slices.DeleteFunc(slices.Clone(disks), func(d vmm.Disk) bool { return d.Validate() != nil }) // told already
	open, err := vmm.OpenDisks(disks)
	return errors.Join(append(faults, err, open.Close())...)
}

// lockDisks keeps the images locked while a guest in the lab has them: locks do not pass from there. It returns the
// paths that the guest writes to.
func (s Spec) lockDisks() (locks vmm.Images, written []string, err error) {
	disks := slices.Clone(s.disks())
	var faults []error
	for i, d := range disks {
		if info, err := os.Stat(d.Path); err == nil && info.Mode()&os.ModeDevice != 0 {
			faults = append(faults, fmt.Errorf("disk %s: a guest in the lab can't have a device of this host: copy it to an image", d.Path))
		}
		if d.Writes() {
			written = append(written, d.Path)
		}
		disks[i].COW, disks[i].ReadOnly = false, !d.Writes() // without a file for changes
	}
	if err := errors.Join(faults...); err != nil {
		return nil, nil, err
	}
	locks, err = vmm.OpenDisks(disks)
	return locks, written, err
}
