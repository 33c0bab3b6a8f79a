package hostpci

import (
	"slices"
	"strings"

	"github.com/stile-vmm/stile/internal/mountinfo"
)

// look is one look at what of the host stands on its functions. Each list is read once, and only when it is asked for.
type look struct {
	host    *Host
	classes map[string][]classDevice

	mountsRead, swapsRead, consolesRead bool
	mounts                              []mountinfo.Mount
	swaps, consoles                     []string
}

// classDevice is a device of a class with where its link leads to.
type classDevice struct{ name, to string }

func (h *Host) look() *look { return &look{host: h, classes: make(map[string][]classDevice)} }

// devicesOf returns the devices of a class (/sys/class/block) that belong to a function:
// the links in the class's folder lead through the function's folder.
func (l *look) devicesOf(b BDF, class string) []string { return l.below(b.String(), class) }

// below returns the devices of a class whose links lead through a folder of this name, sorted.
func (l *look) below(folder, class string) []string {
	devices, known := l.classes[class]
	if !known {
		names, _ := l.host.tree.list(class)
		for _, name := range names {
			if to, err := l.host.tree.link(class + "/" + name); err == nil {
				devices = append(devices, classDevice{name, to})
			}
		}
		l.classes[class] = devices
	}
	var list []string
	for _, d := range devices {
		if strings.Contains(d.to, "/"+folder+"/") {
			list = append(list, d.name)
		}
	}
	slices.Sort(list)
	return list
}

func (l *look) mountPoints() []mountinfo.Mount {
	if !l.mountsRead {
		l.mounts, l.mountsRead = l.host.mounts(), true
	}
	return l.mounts
}

func (l *look) swapSpaces() []string {
	if !l.swapsRead {
		l.swaps, l.swapsRead = l.host.swaps(), true
	}
	return l.swaps
}

// consoleNames returns the names of the kernel's consoles.
func (l *look) consoleNames() []string {
	if !l.consolesRead {
		l.consoles, l.consolesRead = l.host.consoles(), true
	}
	return l.consoles
}

// mounts returns what is mounted. Some file systems (btrfs) have device numbers of their own, so both number and source count.
func (h *Host) mounts() []mountinfo.Mount {
	text, _ := h.tree.file("/proc/self/mountinfo")
	return mountinfo.Parse(string(text))
}

func (h *Host) swaps() []string {
	text, _ := h.tree.file("/proc/swaps")
	var list []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && strings.HasPrefix(fields[0], "/dev/") {
			list = append(list, fields[0])
		}
	}
	return list
}

// consoles parses proc_consoles(5): the first field is the terminal's name.
func (h *Host) consoles() []string {
	text, _ := h.tree.file("/proc/consoles")
	var list []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			list = append(list, fields[0])
		}
	}
	return list
}
