package hostpci

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	nvmeSubsystems = "/sys/class/nvme-subsystem"
	classBlock     = "/sys/class/block"
)

// disksOf returns the disks and partitions of a function.
func (l *look) disksOf(b BDF) []string {
	return append(l.devicesOf(b, classBlock), l.multipathDisks(b)...)
}

// multipathDisks returns the disks and partitions of NVMe subsystems that a function is
// a controller of. With multipath they hang below the subsystem, not the function.
func (l *look) multipathDisks(b BDF) []string {
	controllers := l.devicesOf(b, "/sys/class/nvme")
	if len(controllers) == 0 {
		return nil
	}
	subsystems, _ := l.host.tree.list(nvmeSubsystems)
	var list []string
	for _, subsystem := range subsystems {
		entries, _ := l.host.tree.list(nvmeSubsystems + "/" + subsystem)
		if !slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(entries, c) }) {
			continue
		}
		list = append(list, l.below(subsystem, classBlock)...)
	}
	slices.Sort(list)
	return list
}

// maxLayers bounds how many block devices may be built on each other.
const maxLayers = 8

func (l *look) diskUses(disks []string) []Use {
	if len(disks) == 0 {
		return nil
	}
	return l.layerUses(disks, maxLayers)
}

// layerUses tells what uses disks, and whether the host stands on what is built on them.
func (l *look) layerUses(disks []string, layers int) []Use {
	var uses []Use
	for _, disk := range disks {
		number, _ := l.host.tree.text(classBlock + "/" + disk + "/dev")
		if target, ok := l.mountOf(disk, number); ok {
			uses = append(uses, Use{"disk", fmt.Sprintf("%s is mounted on %s", disk, target), target == "/"})
		}
		if slices.Contains(l.swapSpaces(), "/dev/"+disk) {
			uses = append(uses, Use{"disk", disk + " is swap space", true})
		}
		holders, _ := l.host.tree.list(classBlock + "/" + disk + "/holders")
		slices.Sort(holders)
		for _, holder := range holders {
			uses = append(uses, l.holderUse(disk, holder, layers))
		}
	}
	return uses
}

// holderUse describes what is built on a disk, and names what the host needs it for.
func (l *look) holderUse(disk, holder string, layers int) Use {
	u := Use{Kind: "disk", Text: fmt.Sprintf("%s is part of %s", disk, l.holderName(holder))}
	if layers == 0 {
		return u
	}
	for _, above := range l.layerUses([]string{holder}, layers-1) {
		if above.Vital {
			u.Text, u.Vital = u.Text+", and "+above.Text, true
			break
		}
	}
	return u
}

// mountOf returns where a disk is mounted: on the root if it is there, too.
func (l *look) mountOf(disk, number string) (target string, mounted bool) {
	for _, m := range l.mountPoints() {
		if m.Source != "/dev/"+disk && (number == "" || m.Device != number) {
			continue
		}
		if !mounted || m.Target == "/" {
			target = m.Target
		}
		mounted = true
	}
	return target, mounted
}

// claims tells which of a function's disks the kernel keeps for itself though nothing that can be seen uses them:
// mounted for other processes, below an overlay, or one of a file system's several devices.
func (h *Host) claims(f *Function, uses []Use) []Use {
	if f.Driver == "" || h.claimed == nil || slices.ContainsFunc(uses, func(u Use) bool { return u.Kind == "disk" }) {
		return nil
	}
	for _, disk := range h.look().disksOf(f.Address) {
		if h.claimed("/dev/" + strings.ReplaceAll(disk, "!", "/")) {
			return []Use{{Kind: "disk", Text: "the kernel has " + disk + " in use: it is mounted where this process does not see it, or part of a file system of several disks"}}
		}
	}
	return nil
}

// claimed tells whether a block device is in use, by asking for it exclusively (open(2), O_EXCL).
func claimed(path string) bool {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		unix.Close(fd)
	}
	return err == unix.EBUSY
}

// holderName names a block device that is built on another: an LVM or crypt volume by
// its device-mapper name, others (md) by their own.
func (l *look) holderName(name string) string {
	if dm, err := l.host.tree.text(classBlock + "/" + name + "/dm/name"); err == nil && dm != "" {
		return dm + " (" + name + ")"
	}
	return name
}
