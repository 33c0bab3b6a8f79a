package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/mdev"
)

// bindFlags are common to bind and unbind.
type bindFlags struct {
	group  int
	force  bool
	dryRun bool
	asJSON bool
	root   string
}

func (f *bindFlags) add(c *cobra.Command, force string) {
	c.Flags().IntVar(&f.group, "group", -1, "take all functions of IOMMU group `N` that can be bound")
	c.Flags().Lookup("group").DefValue = "0" // so that help shows no default; 0 is a group, too
	c.Flags().BoolVar(&f.force, "force", false, force)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be written, as shell commands, and change nothing")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&f.root, "root", "/", "`FOLDER` with the host's /sys and /proc")
	_ = c.Flags().MarkHidden("root") // for tests: there is no kernel behind another folder
}

// functions resolves what the user named. With --group there are no names.
func (f *bindFlags) functions(host *hostpci.Host, names []string) ([]hostpci.BDF, error) {
	if f.group >= 0 && len(names) > 0 || f.group < 0 && len(names) == 0 {
		return nil, errors.New("name PCI functions such as 0000:01:00.0, or one IOMMU group with --group; see stile devices")
	}
	if f.group >= 0 {
		s, err := host.Scan()
		if err != nil {
			return nil, err
		}
		return s.Endpoints(f.group)
	}
	var list []hostpci.BDF
	var faults []error
	for _, name := range names {
		b, err := host.Resolve(name)
		list, faults = append(list, b), append(faults, err)
	}
	return list, errors.Join(faults...)
}

func notice(text string) { say.Line(os.Stderr, text) }

func newBindCommand() *cobra.Command {
	var f bindFlags
	var driver string
	c := &cobra.Command{
		Use:   "bind ADDRESS... | --group N",
		Short: "Give PCI functions to VFIO, to be passed through",
		Long: `bind takes PCI functions from their drivers and gives them to vfio-pci, or to the driver
named. All are bound or none. What they had before is remembered until the next boot
and comes back with stile unbind. Binding needs root. A function that a VFIO driver has
already stays as it is.

Refused are bridges, functions without IOMMU group, and functions in use: a mounted
disk, swap, part of a volume group, an interface that is up, the console's display, a
physical function with virtual ones, the kernel's console, a device file that a process
has open. --force binds what is in use. Refused always is what a process holds by VFIO,
because the kernel would wait for it, and what this machine itself stands on: its root,
its swap space, the folders that a host shares with it, in the lab also its channel.

stile run --device ADDRESS,bind binds for one run and needs no stile bind.`,
		Example: `  stile bind 0000:01:00.0
  stile bind --group 12
  stile bind --dry-run 01:00.0 01:00.1`,
		RunE: func(_ *cobra.Command, args []string) error {
			return bind(&f, hostpci.BindOptions{Driver: driver, Force: f.force, Keep: true, Notice: notice}, args)
		},
	}
	f.add(c, "bind although something on this host uses the function")
	c.Flags().StringVar(&driver, "driver", "", "`DRIVER` to bind to (default vfio-pci)")
	return c
}

func bind(f *bindFlags, o hostpci.BindOptions, args []string) error {
	host := hostpci.New(f.root)
	functions, err := f.functions(host, args)
	if err != nil {
		return err
	}
	if f.dryRun {
		p, err := host.PlanBind(functions, o)
		if err != nil {
			return err
		}
		return printPlan(p, f.asJSON)
	}
	steps, err := host.Bind(functions, o)
	if err != nil {
		return err
	}
	return reportSteps(host, steps, f.asJSON)
}

func newUnbindCommand() *cobra.Command {
	var f bindFlags
	var stale bool
	c := &cobra.Command{
		Use:   "unbind ADDRESS... | --group N | --stale",
		Short: "Give PCI functions back to the drivers they had",
		Long: `unbind gives functions that stile bind bound back to the drivers they had, with the
driver_override they had. It needs root. A function that a process holds is refused, and
the process named, because the kernel would wait for it.

--stale gives back what a stile left bound, or half wrapped (stile mdev wrap), that was
killed. Each stile bind, each stile mdev wrap and each run that binds does so first for
what it left of its own kind.`,
		Example: `  stile unbind 0000:01:00.0
  stile unbind --group 12
  stile unbind --stale`,
		RunE: func(_ *cobra.Command, args []string) error {
			if stale {
				return unbindStale(&f, args)
			}
			return unbind(&f, args)
		},
	}
	f.add(c, "unbind also what stile did not bind; the kernel then chooses the driver")
	c.Flags().BoolVar(&stale, "stale", false, "give back what killed processes left bound or half wrapped")
	return c
}

func unbind(f *bindFlags, args []string) error {
	host := hostpci.New(f.root)
	functions, err := f.functions(host, args)
	if err != nil {
		return err
	}
	o := hostpci.UnbindOptions{Force: f.force, Notice: notice}
	if f.dryRun {
		p, err := host.PlanUnbind(functions, o)
		if err != nil {
			return err
		}
		return printPlan(p, f.asJSON)
	}
	steps, err := host.Unbind(functions, o)
	return errors.Join(reportSteps(host, steps, f.asJSON), err)
}

func unbindStale(f *bindFlags, args []string) error {
	if len(args) > 0 || f.group >= 0 {
		return errors.New("--stale takes all that killed processes left; leave out addresses and --group")
	}
	wraps := mdev.New(f.root)
	host := wraps.PCI()
	if f.dryRun {
		return planStale(f, wraps)
	}
	left := wraps.Stale()
	err := wraps.Recover(notice) // first: it gives back what it has unwrapped
	steps, bindErr := host.Recover(notice)
	if err = errors.Join(err, bindErr); err == nil && len(steps)+len(left) == 0 && !f.asJSON {
		fmt.Println("nothing was left bound")
	}
	return errors.Join(reportSteps(host, steps, f.asJSON), err)
}

// planStale prints what would be given back.
func planStale(f *bindFlags, wraps *mdev.Host) error {
	entries, err := wraps.PCI().Stale()
	if err != nil {
		return err
	}
	var functions []hostpci.BDF
	for _, e := range entries {
		functions = append(functions, e.Address)
	}
	p, err := wraps.PCI().PlanUnbind(functions, hostpci.UnbindOptions{})
	if err != nil {
		return err
	}
	if !f.asJSON {
		for _, b := range wraps.Stale() {
			fmt.Printf("# %v was left half wrapped: its mediated device goes, and it returns to its driver\n", b)
		}
	}
	return printPlan(p, f.asJSON)
}

func printPlan(p *hostpci.Plan, asJSON bool) error {
	if asJSON {
		return printJSON(p)
	}
	if p.Module != "" {
		fmt.Printf("modprobe %s\n", p.Module)
	}
	for _, step := range p.Steps {
		fmt.Printf("# %s\n", stepText(step))
		for _, w := range step.Writes {
			fmt.Println(w)
		}
	}
	return nil
}

func stepText(s hostpci.Step) string {
	if s.From == s.To {
		return fmt.Sprintf("%v stays on %s", s.Address, noDriver(s.To))
	}
	return fmt.Sprintf("%v: %s → %s", s.Address, noDriver(s.From), noDriver(s.To))
}

// reportSteps says what was done, and how the groups concerned are now.
func reportSteps(host *hostpci.Host, steps []hostpci.Step, asJSON bool) error {
	if asJSON {
		return printJSON(hostpci.Plan{Steps: steps})
	}
	for _, step := range steps {
		fmt.Println(stepText(step))
	}
	s, err := host.Scan()
	if err != nil {
		return err
	}
	told := make(map[int]bool)
	for _, step := range steps {
		f := s.Function(step.Address)
		if f == nil || f.Group == nil || s.Group(*f.Group) == nil || told[*f.Group] {
			continue
		}
		told[*f.Group] = true
		if f.Status == hostpci.StatusVFIO {
			printGroupState(s.Group(*f.Group))
		}
	}
	return nil
}

// printGroupState tells after a bind what else a group needs.
func printGroupState(g *hostpci.Group) {
	fmt.Printf("%s: %s\n", groupTitle(g), groupState(g))
	if !g.Viability.Viable && g.Viability.Remedy != "" {
		fmt.Printf("→ %s\n", g.Viability.Remedy)
	}
}
