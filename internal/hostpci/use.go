package hostpci

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Use is something on the host that works with a function now, so that taking the
// function away would harm it.
type Use struct {
	// Kind is disk, network, display, mediated, virtual-functions or process.
	Kind string `json:"kind"`
	// Text reads as the rest of a sentence: "nvme0n1p2 is mounted on /home".
	Text string `json:"text"`
}

// joinUses is a list of uses in a sentence.
func joinUses(list []Use) string {
	texts := make([]string, len(list))
	for i, u := range list {
		texts[i] = u.Text
	}
	return joinAnd(texts)
}

// Uses tells what uses a function. One without a driver has no uses.
func (h *Host) Uses(s *Snapshot, f *Function) []Use {
	if f.Driver == "" {
		return nil
	}
	if f.Status == StatusVFIO || f.Status == StatusDonates {
		return append(h.vfioUses(s, f), h.mediatedUses(s, f)...)
	}
	var uses []Use
	disks := append(h.devicesOf(f.Address, classBlock), h.multipathDisks(f.Address)...)
	uses = append(uses, h.diskUses(disks)...)
	uses = append(uses, h.networkUses(f.Address)...)
	uses = append(uses, h.displayUses(f.Address)...)
	uses = append(uses, h.mediatedUses(s, f)...)
	if n := len(f.VirtualFunctions); n > 0 {
		uses = append(uses, Use{"virtual-functions", fmt.Sprintf("%d virtual %s of it %s with its driver", n, choose(n == 1, "function", "functions"), choose(n == 1, "ends", "end"))})
	}
	return append(uses, h.nodeUses(f.Address, disks)...)
}

// devicesOf returns the devices of a class (/sys/class/block) that belong to a function:
// the links in the class's folder lead through the function's folder.
func (h *Host) devicesOf(b BDF, class string) []string {
	names, _ := h.tree.list(class)
	var list []string
	for _, name := range names {
		to, err := h.tree.link(class + "/" + name)
		if err == nil && strings.Contains(to, "/"+b.String()+"/") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

const (
	nvmeSubsystems = "/sys/class/nvme-subsystem"
	classBlock     = "/sys/class/block"
)

// multipathDisks returns the disks and partitions of NVMe subsystems that a function is
// a controller of. With multipath they hang below the subsystem, not the function.
func (h *Host) multipathDisks(b BDF) []string {
	controllers := h.devicesOf(b, "/sys/class/nvme")
	if len(controllers) == 0 {
		return nil
	}
	subsystems, _ := h.tree.list(nvmeSubsystems)
	var list []string
	for _, subsystem := range subsystems {
		entries, _ := h.tree.list(nvmeSubsystems + "/" + subsystem)
		if !slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(entries, c) }) {
			continue
		}
		names, _ := h.tree.list(classBlock)
		for _, name := range names {
			to, err := h.tree.link(classBlock + "/" + name)
			if err == nil && strings.Contains(to, "/"+subsystem+"/") {
				list = append(list, name)
			}
		}
	}
	slices.Sort(list)
	return list
}

func (h *Host) diskUses(disks []string) []Use {
	if len(disks) == 0 {
		return nil
	}
	mounts := h.mounts()
	swaps := h.swaps()
	var uses []Use
	for _, disk := range disks {
		number, _ := h.tree.text(classBlock + "/" + disk + "/dev")
		for _, m := range mounts {
			if m.source == "/dev/"+disk || number != "" && m.number == number {
				uses = append(uses, Use{"disk", fmt.Sprintf("%s is mounted on %s", disk, m.target)})
				break
			}
		}
		if slices.Contains(swaps, "/dev/"+disk) {
			uses = append(uses, Use{"disk", disk + " is swap space"})
		}
		holders, _ := h.tree.list(classBlock + "/" + disk + "/holders")
		slices.Sort(holders)
		for _, holder := range holders {
			uses = append(uses, Use{"disk", fmt.Sprintf("%s is part of %s", disk, h.holderName(holder))})
		}
	}
	return uses
}

// holderName names a block device that is built on another: an LVM or crypt volume by
// its device-mapper name, others (md) by their own.
func (h *Host) holderName(name string) string {
	if dm, err := h.tree.text(classBlock + "/" + name + "/dm/name"); err == nil && dm != "" {
		return dm + " (" + name + ")"
	}
	return name
}

type mount struct{ number, target, source string }

// mounts parses mountinfo (proc(5)): field 3 is the device's number, 5 the target, and
// the source is the second after the lone dash. Some file systems (btrfs) have numbers
// of their own, so both number and source count.
func (h *Host) mounts() []mount {
	text, _ := h.tree.file("/proc/self/mountinfo")
	var list []mount
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if ok && len(left) >= 5 && len(right) >= 2 {
			list = append(list, mount{left[2], left[4], right[1]})
		}
	}
	return list
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

func (h *Host) networkUses(b BDF) []Use {
	const class, isUp = "/sys/class/net", 1 // IFF_UP
	var uses []Use
	for _, name := range h.devicesOf(b, class) {
		text, _ := h.tree.text(class + "/" + name + "/flags")
		flags, err := strconv.ParseUint(text, 0, 32)
		if err == nil && flags&isUp != 0 {
			uses = append(uses, Use{"network", "interface " + name + " is up"})
		}
		if master := h.tree.linkName(class + "/" + name + "/master"); master != "" {
			uses = append(uses, Use{"network", "interface " + name + " is part of " + master})
		}
	}
	return uses
}

func (h *Host) displayUses(b BDF) []Use {
	var uses []Use
	if boot, _ := h.tree.text(functionPath(b) + "/boot_vga"); boot == "1" {
		uses = append(uses, Use{"display", "it is the display that the machine started with"})
	}
	buffers := h.devicesOf(b, "/sys/class/graphics")
	if len(buffers) == 0 || !h.framebufferConsole() {
		return uses
	}
	return append(uses, Use{"display", "the text console is on " + buffers[0]})
}

// framebufferConsole tells whether a text console is drawn on a frame buffer.
func (h *Host) framebufferConsole() bool {
	const class = "/sys/class/vtconsole"
	names, _ := h.tree.list(class)
	return slices.ContainsFunc(names, func(name string) bool {
		what, _ := h.tree.text(class + "/" + name + "/name")
		bound, _ := h.tree.text(class + "/" + name + "/bind")
		return strings.Contains(what, "frame buffer") && bound == "1"
	})
}

func (h *Host) mediatedUses(s *Snapshot, f *Function) []Use {
	var uses []Use
	for _, m := range s.children(f.Address) {
		uses = append(uses, Use{"mediated", "mediated device " + m.UUID + " is made of it"})
	}
	return uses
}

// vfioUses tells who has the function's group open. That is a use of each of its members.
func (h *Host) vfioUses(s *Snapshot, f *Function) []Use {
	if f.Group == nil || s.Group(*f.Group) == nil {
		return nil
	}
	var uses []Use
	for _, p := range s.Group(*f.Group).Holders {
		uses = append(uses, Use{"process", p.String() + " has its VFIO group open"})
	}
	return uses
}

// nodeUses tells which processes have a disk, a display or a sound card of the function
// open.
func (h *Host) nodeUses(b BDF, disks []string) []Use {
	nodes := slices.Concat(disks, h.devicesOf(b, "/sys/class/nvme"), h.devicesOf(b, "/sys/class/nvme-generic"),
		h.devicesOf(b, "/sys/class/drm"), h.devicesOf(b, "/sys/class/sound"))
	if len(nodes) == 0 {
		return nil
	}
	found, _ := h.openers(func(path string) bool {
		return strings.HasPrefix(path, "/dev/") && slices.Contains(nodes, filepath.Base(path))
	})
	var uses []Use
	for path, list := range found {
		uses = append(uses, Use{"process", joinProcesses(list) + " " + choose(len(list) == 1, "has ", "have ") + path + " open"})
	}
	slices.SortFunc(uses, func(a, b Use) int { return strings.Compare(a.Text, b.Text) })
	return uses
}
