package hostpci

import (
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Process is a process that holds something.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

func (p Process) String() string { return "process " + strconv.Itoa(p.PID) + " (" + p.Command + ")" }

// joinProcesses names processes in a sentence.
func joinProcesses(list []Process) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return joinAnd(texts)
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// openers returns who has which of the device files open whose path wanted accepts, and
// whether all processes could be asked: without root only the user's own can.
func (h *Host) openers(wanted func(path string) bool) (map[string][]Process, bool) {
	found := make(map[string][]Process)
	names, err := h.tree.list("/proc")
	complete := err == nil
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		paths, err := h.openFiles(name, wanted)
		if err != nil && !gone(err) && !errors.Is(err, unix.ESRCH) {
			complete = false
		}
		if len(paths) == 0 {
			continue
		}
		p := Process{pid, h.command(name)}
		for _, path := range paths {
			found[path] = append(found[path], p)
		}
	}
	for _, list := range found {
		slices.SortFunc(list, func(a, b Process) int { return a.PID - b.PID })
	}
	return found, complete
}

// openFiles returns the wanted paths that a process has open, each once.
func (h *Host) openFiles(pid string, wanted func(string) bool) ([]string, error) {
	dir := "/proc/" + pid + "/fd/"
	names, err := h.tree.list(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		to, err := h.tree.link(dir + name)
		if err == nil && wanted(to) && !slices.Contains(paths, to) {
			paths = append(paths, to)
		}
	}
	return paths, nil
}

func (h *Host) command(pid string) string {
	text, err := h.tree.text("/proc/" + pid + "/comm")
	if err != nil || text == "" {
		return "?"
	}
	return text
}

const vfioNodes = "/dev/vfio/"

// scanHolders looks who has groups or VFIO devices open. Without any VFIO device there
// is nothing to hold, and the processes are not asked.
func (h *Host) scanHolders(s *Snapshot) {
	nodes := make(map[string]*Group)
	note := func(group *int, device string) {
		if group == nil || device == "" || s.Group(*group) == nil {
			return
		}
		g := s.Group(*group)
		nodes[g.Node()] = g
		nodes[vfioNodes+"devices/"+device] = g
	}
	for _, f := range s.Functions {
		note(f.Group, f.VFIODevice)
		if f.Status == StatusVFIO && f.Group != nil && s.Group(*f.Group) != nil {
			g := s.Group(*f.Group) // a kernel without vfio-dev folders
			nodes[g.Node()] = g
		}
	}
	for _, m := range s.Mediated {
		note(m.Group, m.VFIODevice)
	}
	s.HoldersKnown = true
	if len(nodes) == 0 {
		return
	}
	found, complete := h.openers(func(path string) bool { return nodes[path] != nil })
	s.HoldersKnown = complete
	for path, list := range found {
		g := nodes[path]
		for _, p := range list {
			if !slices.Contains(g.Holders, p) {
				g.Holders = append(g.Holders, p)
			}
		}
	}
	for _, g := range s.Groups {
		slices.SortFunc(g.Holders, func(a, b Process) int { return a.PID - b.PID })
	}
}
