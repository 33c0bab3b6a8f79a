package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/lab"
)

const labHelp = `A nested host with KVM, an IOMMU, VFIO and PCI devices, under QEMU's emulation: a place
to try passthrough, and to test it in CI, without the hardware.

It is booted once, which takes 5 to 15 s, and its state is kept in the cache. Each command
resumes that state, in well under a second, and forgets all that happened in it at the
end. Inside, the host's files are seen through a copy-on-write view, stile is in the PATH,
and commands run as root.

A topology says which devices there are; "stile lab topologies" shows those that come
with stile. The nested host's kernel is chosen with --kernel:

  (none)     the built one, if there is one; else, where the topology has no devices, one
             that is there; else the distribution's
  built      what "stile lab kernel build" made: the fastest, with iommufd
  debug      what "stile lab kernel build debug" made: with KASAN and lockdep
  6.1, 6.12  the distribution's package of that version (fetched, not installed)
  host       the kernel that runs here
  default    the one that stile's guests boot; without VFIO
  PATH       any bzImage, with --modules where its modules are not beside it`

const labExamples = `  stile lab up
  stile lab run -- lspci -nn
  stile lab shell --topology multifunction
  stile lab devices --topology bridge --kernel 6.12`

func newLabCommand() *cobra.Command {
	c := &cobra.Command{Use: "lab", Short: "A nested host with an IOMMU and PCI devices", Long: labHelp, Example: labExamples}
	c.AddCommand(
		newLabUpCommand(), newLabRunCommand(), newLabShellCommand(), newLabDevicesCommand(), newLabTopologiesCommand(),
		newLabListCommand(), newLabRemoveCommand(), newLabPruneCommand(), newLabKernelCommand(),
	)
	return c
}

// labFlags choose a nested host.
type labFlags struct {
	spec guest.LabSpec
	mem  sizeFlag
	log  string
}

func (f *labFlags) add(fs *pflag.FlagSet) {
	fs.SetNormalizeFunc(normalizeFlag)
	fs.SortFlags = false
	fs.StringVar(&f.spec.Topology, "topology", lab.AllTopology, "`TOPOLOGY` by its name, or a file with one")
	fs.StringVar(&f.spec.Kernel, "kernel", "", "the nested host's `KERNEL`: built, debug, 6.1, 6.12, host, default or a bzImage")
	fs.StringVar(&f.spec.Modules, "modules", "", "the lib/modules/RELEASE `FOLDER` of a kernel given by its path")
	fs.IntVar(&f.spec.CPUs, "cpus", 0, "`N` processors; one is fastest under emulation (default 1)")
	fs.Var(&f.mem, "memory", "memory, such as 2G (default 2G)")
	fs.StringArrayVar(&f.spec.Writable, "writable", nil, "a file or folder, `PATH`, that the nested host may change (default: it sees all copy on write); repeatable")
	fs.StringVar(&f.log, "console-log", "", "write the nested host's console to `FILE`")
}

// open resumes the nested host. The caller closes both.
func (f *labFlags) open(s *signals) (*guest.LabHost, func(), error) {
	done := func() {}
	f.spec.Mem = uint64(f.mem)
	if f.log != "" {
		file, err := os.Create(f.log)
		if err != nil {
			return nil, done, fmt.Errorf("console log: %w", err)
		}
		f.spec.Console, done = file, func() { file.Close() }
	}
	host, err := guest.OpenLab(s.boot(), f.spec, say.Writer(os.Stderr))
	if err != nil {
		done()
		if status := s.status(); status != 0 {
			err = exitError{status}
		}
		return nil, nil, err
	}
	return host, done, nil
}

func newLabUpCommand() *cobra.Command {
	f, asJSON := &labFlags{}, false
	c := &cobra.Command{
		Use:   "up",
		Short: "Build the nested host's state, or see that it resumes",
		Long: `Boot the nested host and keep its state in the cache, unless this stile did so before;
then resume it once, to see that it works. Other commands do the same when they need it,
but take a state from another version of stile too, which costs them half a second.`,
		Example: "  stile lab up\n  stile lab up --topology ./mine.json --kernel 6.12",
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return f.up(asJSON) },
	}
	f.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the phases of the resume")
	return c
}

func (f *labFlags) up(asJSON bool) error {
	s := watchSignals()
	defer s.stop()
	begin := time.Now()
	f.spec.Current = true
	host, done, err := f.open(s)
	if err != nil {
		return err
	}
	defer done()
	defer host.Close()
	meta, p := host.Meta(), host.Phases()
	if asJSON {
		return printJSON(struct {
			State  lab.Meta          `json:"state"`
			Kernel string            `json:"kernel"`
			Resume []guest.PhaseTime `json:"resume"`
		}{meta, host.Session().Hello().Kernel, host.Times()})
	}
	resumed := p.QEMU + p.Load + p.Session + p.Setup
	fmt.Printf("topology %s, kernel %s, %d CPU, %d MiB: booted in %.1f s on %s, resumed in %d ms\n",
		meta.Topology, host.Session().Hello().Kernel, meta.CPUs, meta.Mem>>20, meta.BootTime, meta.Created.Format(time.DateTime), resumed.Milliseconds())
	if took := time.Since(begin); took > 2*resumed+time.Second {
		fmt.Printf("all of it took %.1f s\n", took.Seconds())
	}
	return nil
}

func newLabTopologiesCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "topologies [NAME|FILE]",
		Short: "Show the topologies that come with stile, or one with its devices",
		Long: `Show the topologies that come with stile, or the devices of one and their addresses.
--json prints what a file of your own looks like; docs/lab.md describes it.`,
		Example: "  stile lab topologies\n  stile lab topologies bridge\n  stile lab topologies all --json >mine.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return showTopology(args[0], asJSON)
			}
			return listTopologies(asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func listTopologies(asJSON bool) error {
	if asJSON {
		return printJSON(lab.Topologies())
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tIOMMU\tINTERRUPT REMAPPING\tFUNCTIONS")
	for _, t := range lab.Topologies() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", t.Name, yesNo(t.IOMMU), yesNo(t.InterruptRemapping), len(t.Functions()))
	}
	return w.Flush()
}

func showTopology(name string, asJSON bool) error {
	t, err := lab.FindTopology(name)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(t)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FUNCTION\tKIND\tPORT")
	for _, f := range t.Functions() {
		fmt.Fprintf(w, "%s\t%s\t%d\n", f.BDF, f.Device.Kind, f.Unit)
	}
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newLabListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the saved states, the most recently used first",
		Example: "  stile lab list",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			store, err := openLabStore()
			if err != nil {
				return err
			}
			states, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(append([]lab.State{}, states...))
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "KEY\tTOPOLOGY\tKERNEL\tMEMORY\tDISK\tLAST USE\tSTATE")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Key, s.Meta.Topology, filepath.Base(s.Meta.Kernel),
					roundSize(s.Meta.Mem), roundSize(s.Disk), s.Used.Format(time.DateTime), stateOf(s))
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func stateOf(s lab.State) string {
	switch {
	case s.Damage != "":
		return "damaged"
	case s.InUse:
		return "in use"
	}
	return "good"
}

func openLabStore() (*lab.Store, error) {
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	return lab.OpenStore(filepath.Join(cache.Dir(), "lab"))
}

func newLabRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm KEY...",
		Short:   "Remove saved states",
		Example: "  stile lab rm 0123456789abcdef",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, keys []string) error {
			store, err := openLabStore()
			if err != nil {
				return err
			}
			var errs []error
			for _, key := range keys {
				errs = append(errs, store.Remove(c.Context(), key))
			}
			return errors.Join(errs...)
		},
	}
}

func newLabPruneCommand() *cobra.Command {
	keep := 0
	c := &cobra.Command{
		Use:     "prune",
		Short:   "Remove saved states but those used last, and what killed runs have left",
		Example: "  stile lab prune --keep 2",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := openLabStore()
			if err != nil {
				return err
			}
			if keep < 0 {
				return fmt.Errorf("--keep %d is negative", keep)
			}
			freed, err := store.Prune(c.Context(), keep)
			fmt.Printf("freed %s\n", roundSize(freed))
			return err
		},
	}
	c.Flags().IntVar(&keep, "keep", 0, "keep the `N` that were used last")
	return c
}
