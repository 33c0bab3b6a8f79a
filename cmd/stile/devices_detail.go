package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// rows prints lines of a name and a value; a value of several lines repeats no name.
type rows struct{ w *tabwriter.Writer }

func (r rows) add(name, format string, args ...any) {
	fmt.Fprintf(r.w, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
}

func (r rows) list(name string, values []string) {
	for _, v := range values {
		r.add(name, "%s", v)
		name = ""
	}
}

func printDevice(v deviceView, s *hostpci.Snapshot) error {
	f, d := v.Function, v.Detail
	fmt.Printf("%v  %s%s\n", f.Address, f.Title(), virtualNote(f))
	r := rows{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	r.add("numbers", "%v, subsystem %v, class %v, revision %02x", f.ID, f.Subsystem, f.Class, d.Revision)
	r.add("driver", "%s%s", orDash(f.Driver), bindingNote(v.Binding))
	if d.Override != "" {
		r.add("override", "only %s may bind", d.Override)
	}
	r.add("path", "%s", d.Path)
	if d.NUMANode >= 0 {
		r.add("NUMA node", "%d", d.NUMANode)
	}
	printBARs(r, d)
	printReset(r, f, d)
	for i, u := range d.Uses {
		r.add(label(i, "in use"), "%s", u.Text)
	}
	for i, m := range v.Mediated {
		r.add(label(i, "mediated"), "%s%s", m.UUID, mediatedNote(m))
	}
	printDeviceGroup(r, v, s)
	r.list("problems", append(append([]string{}, f.Problems...), d.Problems...))
	return r.w.Flush()
}

// label is the name for the first of several rows.
func label(i int, name string) string {
	if i > 0 {
		return ""
	}
	return name
}

func bindingNote(e *hostpci.Entry) string {
	if e == nil {
		return ""
	}
	by := "stile bind"
	switch {
	case e.Target == hostpci.DonorDriver:
		by = "stile mdev wrap"
	case !e.Keep:
		by = fmt.Sprintf("process %d", e.Owner.PID)
	}
	return fmt.Sprintf(" (bound by %s; goes back to %s)", by, noDriver(e.Driver))
}

func noDriver(name string) string {
	if name == "" {
		return "no driver"
	}
	return name
}

func mediatedNote(m *hostpci.Mediated) string {
	if m.Emulated {
		return " (emulated IOMMU)"
	}
	return " (in its parent's group)"
}

func printBARs(r rows, d *hostpci.Detail) {
	for _, b := range d.BARs {
		name := fmt.Sprintf("BAR %d", b.Index)
		if b.Index == hostpci.ROM {
			name = "ROM"
		}
		r.add(name, "%s at %#x, %s", exactSize(b.Size), b.Address, b.Kind())
	}
}

// exactSize prints a size in the largest unit that divides it.
func exactSize(n uint64) string {
	units := []string{"", "K", "M", "G", "T"}
	i := 0
	for n >= 1024 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return fmt.Sprintf("%d%s", n, units[i])
}

func printReset(r rows, f *hostpci.Function, d *hostpci.Detail) {
	switch {
	case f.Bridge:
	case !d.Resettable:
		r.add("reset", "none by itself: what a guest leaves in the device stays there, unless all of its bus can be reset")
	case len(d.ResetMethods) == 0:
		r.add("reset", "possible; this kernel does not tell how")
	default:
		r.add("reset", "%s", strings.Join(d.ResetMethods, ", "))
	}
}

func printDeviceGroup(r rows, v deviceView, s *hostpci.Snapshot) {
	g := v.Group
	if g == nil {
		r.add("IOMMU group", "none")
		if !s.IOMMU.On {
			r.add("", "%s", s.IOMMU.Reason)
			r.add("", "→ %s", s.IOMMU.Remedy)
		}
		return
	}
	r.add("IOMMU group", "%s%s", strings.TrimPrefix(groupTitle(g), "IOMMU group "), heldBy(g))
	r.add("", "%s", groupState(g))
	if g.Viability.Remedy != "" {
		r.add("", "→ %s", g.Viability.Remedy)
	}
	var members []string
	for _, m := range g.Members {
		if m.Name != v.Function.Address.String() {
			members = append(members, fmt.Sprintf("%s %s", m.Name, m.Status))
		}
	}
	r.list("with it", members)
	if v.Isolation != nil {
		r.list("isolation", v.Isolation.Text)
	}
	for i, region := range g.Reserved {
		r.add(label(i, "reserved"), "%#x to %#x, %s", region.Start, region.End, region.Type)
	}
}
