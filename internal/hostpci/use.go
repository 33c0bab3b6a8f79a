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
	// Kind is disk, share, network, display, console, lab, mediated, virtual-functions or process.
	Kind string `json:"kind"`
	// Text reads as the rest of a sentence: "nvme0n1p2 is mounted on /home".
	Text string `json:"text"`
	// Vital tells that the host itself stands on it, its root or its swap space, or that the kernel would wait for
	// its end. Such a function is never bound.
	Vital bool `json:"vital,omitempty"`
}

// vital tells whether one of the uses is.
func vital(list []Use) bool { return slices.ContainsFunc(list, func(u Use) bool { return u.Vital }) }

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
	l := h.look()
	uses := l.uses(s, f)
	if f.Driver == "" || f.Status == StatusVFIO || f.Status == StatusDonates {
		return uses
	}
	return append(uses, l.nodeUses(f.Address)...)
}

// uses tells what uses a function, without asking processes.
func (l *look) uses(s *Snapshot, f *Function) []Use {
	if f.Driver == "" {
		return nil
	}
	if f.Status == StatusVFIO || f.Status == StatusDonates {
		return append(l.host.vfioUses(s, f), l.host.mediatedUses(s, f)...)
	}
	uses := l.virtioUses(f.Address)
	uses = append(uses, l.diskUses(l.disksOf(f.Address))...)
	uses = append(uses, l.networkUses(f.Address)...)
	uses = append(uses, l.displayUses(f)...)
	uses = append(uses, l.consoleUses(f.Address)...)
	uses = append(uses, l.host.mediatedUses(s, f)...)
	if n := len(f.VirtualFunctions); n > 0 {
		uses = append(uses, Use{Kind: "virtual-functions", Text: fmt.Sprintf("%d virtual %s of it %s with its driver", n, choose(n == 1, "function", "functions"), choose(n == 1, "ends", "end"))})
	}
	return uses
}

func (l *look) networkUses(b BDF) []Use {
	const class, isUp = "/sys/class/net", 1 // IFF_UP
	var uses []Use
	for _, name := range l.devicesOf(b, class) {
		text, _ := l.host.tree.text(class + "/" + name + "/flags")
		flags, err := strconv.ParseUint(text, 0, 32)
		if err == nil && flags&isUp != 0 {
			uses = append(uses, Use{Kind: "network", Text: "interface " + name + " is up"})
		}
		if master := l.host.tree.linkName(class + "/" + name + "/master"); master != "" {
			uses = append(uses, Use{Kind: "network", Text: "interface " + name + " is part of " + master})
		}
	}
	return uses
}

func (l *look) displayUses(f *Function) []Use {
	var uses []Use
	if f.Class>>16 == classDisplays {
		if boot, _ := l.host.tree.text(functionPath(f.Address) + "/boot_vga"); boot == "1" {
			uses = append(uses, Use{Kind: "display", Text: "it is the display that the machine started with"})
		}
	}
	buffers := l.devicesOf(f.Address, "/sys/class/graphics")
	if len(buffers) == 0 || !l.framebufferConsole() {
		return uses
	}
	return append(uses, Use{Kind: "display", Text: "the text console is on " + buffers[0]})
}

// framebufferConsole tells whether a text console is drawn on a frame buffer.
func (l *look) framebufferConsole() bool {
	const class = "/sys/class/vtconsole"
	names, _ := l.host.tree.list(class)
	return slices.ContainsFunc(names, func(name string) bool {
		what, _ := l.host.tree.text(class + "/" + name + "/name")
		bound, _ := l.host.tree.text(class + "/" + name + "/bind")
		return strings.Contains(what, "frame buffer") && bound == "1"
	})
}

func (h *Host) mediatedUses(s *Snapshot, f *Function) []Use {
	var uses []Use
	for _, m := range s.children(f.Address) {
		uses = append(uses, Use{Kind: "mediated", Text: "mediated device " + m.UUID + " is made of it"})
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
		uses = append(uses, Use{Kind: "process", Text: p.String() + " has its VFIO group open"})
	}
	return uses
}

// nodeClasses are classes of devices, besides disks, whose device files processes open.
var nodeClasses = []string{
	"/sys/class/nvme", "/sys/class/nvme-generic", "/sys/class/drm", "/sys/class/sound", "/sys/class/tty", classPorts, "/sys/class/video4linux",
}

// nodeUses tells which processes have a disk, a display, a terminal or the like of the function open.
func (l *look) nodeUses(b BDF) []Use {
	nodes := l.disksOf(b)
	for _, class := range nodeClasses {
		nodes = append(nodes, l.devicesOf(b, class)...)
	}
	if len(nodes) == 0 {
		return nil
	}
	found, _ := l.host.openers(func(path string) bool {
		return strings.HasPrefix(path, "/dev/") && slices.Contains(nodes, filepath.Base(path))
	})
	var uses []Use
	for path, list := range found {
		uses = append(uses, Use{Kind: "process", Text: joinProcesses(list) + " " + choose(len(list) == 1, "has ", "have ") + path + " open"})
	}
	slices.SortFunc(uses, func(a, b Use) int { return strings.Compare(a.Text, b.Text) })
	return uses
}
