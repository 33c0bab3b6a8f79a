package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/mdev"
)

// deviceView is what stile devices BDF prints.
type deviceView struct {
	Function  *hostpci.Function   `json:"function"`
	Detail    *hostpci.Detail     `json:"detail"`
	Group     *hostpci.Group      `json:"group"`
	Isolation *hostpci.Isolation  `json:"isolation,omitempty"`
	Mediated  []*hostpci.Mediated `json:"mediated,omitempty"`
	Binding   *hostpci.Entry      `json:"binding,omitempty"`
}

// devicesView is what stile devices --json prints.
type devicesView struct {
	*hostpci.Snapshot
	// Stale are bindings that killed processes left.
	Stale []hostpci.Entry `json:"stale"`
	// StaleWraps are functions that killed processes left half wrapped.
	StaleWraps []hostpci.BDF `json:"stale_wraps"`
}

func newDevicesCommand() *cobra.Command {
	var asJSON bool
	var graph, root string
	c := &cobra.Command{
		Use:   "devices [ADDRESS | UUID]",
		Short: "Show PCI functions, IOMMU groups, and what can be given to a guest",
		Long: `devices shows the PCI functions of this host by IOMMU group, their drivers and mediated
devices, which groups are viable, why the others are not, and who holds one. It changes
nothing and needs no root; without root, holders of other users are not seen and a
function's isolation is not known.

An IOMMU group is the smallest thing that can be given away: its members may reach each
other's memory without the IOMMU seeing it. ` + hostpci.Rule + `

Of each function one word says how it counts:
  vfio         on a VFIO driver, ready for a guest
  donates      on the driver that lends its group to the mediated device made of it
  mediated     a mediated device, ready for a guest
  no-driver    nobody drives it; bind it to use it
  bridge       stays with the host and is in nobody's way
  stub         held by pci-stub, which does nothing
  host-driver  a driver of the host may use it: the group is not viable

With an ADDRESS, such as 0000:01:00.0 or 01:00.0, all that is known of one function:
BARs, reset methods, who uses it, and why its group has the members it has. The UUID of a
mediated device stands for the function that it is made of.

With --root the folder holds another host's /sys, /proc and /run, for instance a copy.`,
		Example: `  stile devices
  stile devices 0000:01:00.0
  stile devices --json | jq '.groups[] | select(.viability.usable) | .id'
  stile devices --graph svg > groups.svg`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			host := hostpci.New(root)
			switch {
			case graph != "" && (asJSON || len(args) > 0):
				return fmt.Errorf("--graph shows all groups; leave out --json and the address")
			case graph != "":
				return printGraph(host, graph)
			case len(args) == 1:
				return showDevice(host, args[0], asJSON)
			}
			return showDevices(host, mdev.New(root).Stale(), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&graph, "graph", "", "draw the groups in this `FORMAT`: svg or dot")
	c.Flags().StringVar(&root, "root", "/", "`FOLDER` with the host's /sys and /proc")
	return c
}

func showDevices(host *hostpci.Host, wraps []hostpci.BDF, asJSON bool) error {
	s, err := host.Scan()
	if err != nil {
		return err
	}
	guest.AdviseDevices(s)
	host.Name(s.Functions...)
	stale, err := host.Stale()
	if err != nil {
		say.Line(os.Stderr, err.Error())
	}
	if asJSON {
		return printJSON(devicesView{s, append([]hostpci.Entry{}, stale...), wraps})
	}
	if !s.IOMMU.On {
		fmt.Printf("No IOMMU, so no device can be passed through: %s.\n→ %s\n\n", s.IOMMU.Reason, s.IOMMU.Remedy)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, g := range s.Groups {
		printGroup(w, s, g)
	}
	printUngrouped(w, s)
	if err := w.Flush(); err != nil {
		return err
	}
	if slices.ContainsFunc(s.Functions, func(f *hostpci.Function) bool { return f.Status == hostpci.StatusDonates }) {
		fmt.Println("\n" + hostpci.Rule)
	}
	if !s.HoldersKnown {
		fmt.Println("\nNot all processes could be asked what they hold; root can.")
	}
	for _, e := range stale {
		fmt.Printf("\n%v was left on %s by a stile that was killed.\n→ stile unbind --stale\n", e.Address, e.Target)
	}
	for _, b := range wraps {
		fmt.Printf("\n%v was left half wrapped by a stile that was killed.\n→ stile unbind --stale\n", b)
	}
	return nil
}

func printGroup(w *tabwriter.Writer, s *hostpci.Snapshot, g *hostpci.Group) {
	fmt.Fprintf(w, "%s: %s%s\n", groupTitle(g), groupState(g), heldBy(g))
	for _, m := range g.Members {
		if m.Function == nil {
			fmt.Fprintf(w, "  %s\t\t%s\t%s\t%s\n", m.Name, orDash(m.Driver), m.Status, memberTitle(s, m))
		} else if f := s.Function(*m.Function); f != nil {
			printFunction(w, f)
		}
	}
	if g.Viability.Remedy != "" {
		fmt.Fprintf(w, "  → %s\n", g.Viability.Remedy)
	}
}

func groupTitle(g *hostpci.Group) string {
	title := fmt.Sprintf("IOMMU group %d", g.ID)
	switch {
	case g.Kind == hostpci.Emulated:
		return title + " (emulated: no IOMMU behind it)"
	case g.Kind == hostpci.Unprotected:
		return title + " (no-IOMMU mode: not isolated at all)"
	case g.Type != "":
		return title + " (" + g.Type + ")"
	}
	return title
}

// groupState is a few words; the blockers are named where there are any.
func groupState(g *hostpci.Group) string {
	v := g.Viability
	switch {
	case v.Usable:
		return "viable"
	case v.Viable && v.Remedy == "":
		return "viable, nothing in it to use"
	case v.Viable:
		return "viable, nothing in it is bound"
	}
	_, blockers, _ := strings.Cut(v.Reason, ": ")
	return "not viable: " + blockers
}

func heldBy(g *hostpci.Group) string {
	if len(g.Holders) == 0 {
		return ""
	}
	names := make([]string, len(g.Holders))
	for i, p := range g.Holders {
		names[i] = p.String()
	}
	return "; held by " + strings.Join(names, ", ")
}

func memberTitle(s *hostpci.Snapshot, m hostpci.Member) string {
	if d := s.MediatedDevice(m.Name); d != nil {
		return "mediated device of " + d.Parent
	}
	return "not a PCI function"
}

func printFunction(w *tabwriter.Writer, f *hostpci.Function) {
	fmt.Fprintf(w, "  %v\t%v\t%s\t%s\t%s%s\n", f.Address, f.ID, orDash(f.Driver), f.Status, f.Title(), virtualNote(f))
	for _, p := range f.Problems {
		fmt.Fprintf(w, "  \t! %s\n", p)
	}
}

func virtualNote(f *hostpci.Function) string {
	switch {
	case f.PhysicalFunction != nil:
		return fmt.Sprintf(" (virtual function of %v)", *f.PhysicalFunction)
	case len(f.VirtualFunctions) > 0:
		return fmt.Sprintf(" (%d virtual functions)", len(f.VirtualFunctions))
	}
	return ""
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func printUngrouped(w *tabwriter.Writer, s *hostpci.Snapshot) {
	first := true
	for _, f := range s.Functions {
		if f.Group != nil {
			continue
		}
		if first {
			fmt.Fprintln(w, "Without IOMMU group:")
			first = false
		}
		printFunction(w, f)
	}
	for _, m := range s.Mediated {
		if m.Group == nil {
			fmt.Fprintf(w, "  %s\t\t%s\t%s\t%s\n", m.UUID, orDash(m.Driver), "mediated", "mediated device of "+m.Parent+", without group")
		}
	}
}

func showDevice(host *hostpci.Host, name string, asJSON bool) error {
	s, err := host.Scan()
	if err != nil {
		return err
	}
	guest.AdviseDevices(s)
	address, err := functionOf(host, s, name)
	if err != nil {
		return err
	}
	f := s.Function(address)
	if f == nil {
		return fmt.Errorf("%v was taken away while it was looked at", address)
	}
	host.Name(f)
	v := deviceView{Function: f, Detail: host.Detail(s, f)}
	if f.Group != nil && s.Group(*f.Group) != nil {
		v.Group = s.Group(*f.Group)
		isolation := host.Explain(s, v.Group)
		v.Isolation = &isolation
	}
	for _, m := range s.Mediated {
		if m.ParentFunction != nil && *m.ParentFunction == address {
			v.Mediated = append(v.Mediated, m)
		}
	}
	v.Binding = findBinding(host, address)
	if asJSON {
		return printJSON(v)
	}
	return printDevice(v, s)
}

// functionOf returns the function that a user means by its address, or by the UUID of a mediated device
// that is made of it.
func functionOf(host *hostpci.Host, s *hostpci.Snapshot, name string) (hostpci.BDF, error) {
	m := s.MediatedDevice(strings.ToLower(name))
	switch {
	case m == nil:
		return host.Resolve(name)
	case m.ParentFunction == nil:
		return hostpci.BDF{}, fmt.Errorf("%s is made of %s, which is no PCI function; see stile mdev list", m.UUID, m.Parent)
	}
	return *m.ParentFunction, nil
}

func findBinding(host *hostpci.Host, address hostpci.BDF) *hostpci.Entry {
	entries, err := host.Bindings()
	if err != nil {
		say.Line(os.Stderr, err.Error())
	}
	for _, e := range entries {
		if e.Address == address {
			return &e
		}
	}
	return nil
}
