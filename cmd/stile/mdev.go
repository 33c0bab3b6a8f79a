package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/mdev"
)

// mdevFlags are common to the commands of mdev.
type mdevFlags struct {
	asJSON bool
	force  bool
	root   string
}

func (f *mdevFlags) host() *mdev.Host { return mdev.New(f.root) }

func (f *mdevFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&f.root, "root", "/", "`FOLDER` with the host's /sys and /proc")
	_ = c.Flags().MarkHidden("root") // for tests: there is no kernel behind another folder
	return c
}

func (f *mdevFlags) addJSON(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return f.add(c)
}

func newMdevCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "mdev",
		Short: "Make, show and remove mediated devices; wrap a PCI function as one",
		Long: `A mediated device is a device that a driver of the host makes of another, its parent,
and that a guest can have. There are those of vendors' drivers, and PCI functions that
are wrapped whole: stile mdev wrap.`,
	}
	c.AddCommand(newMdevTypesCommand(), newMdevListCommand(), newMdevCreateCommand(), newMdevRemoveCommand(),
		newMdevWrapCommand(), newMdevUnwrapCommand())
	return c
}

func newMdevTypesCommand() *cobra.Command {
	var f mdevFlags
	return f.addJSON(&cobra.Command{
		Use:     "types",
		Short:   "Show the parents of mediated devices, what they can make, and how many more",
		Example: "  stile mdev types",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			parents, err := f.host().Parents()
			if err != nil {
				return err
			}
			if f.asJSON {
				return printJSON(map[string]any{"parents": parents})
			}
			printParents(parents)
			return nil
		},
	})
}

func printParents(parents []mdev.Parent) {
	if len(parents) == 0 {
		fmt.Println("No driver that makes mediated devices is bound here.\n→ stile mdev wrap ADDRESS makes one of a whole PCI function")
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	for _, p := range parents {
		fmt.Fprintf(w, "%s (%s)\n", p.Name, orDash(p.Driver))
		for _, t := range p.Types {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", t.ID, orDash(t.DeviceAPI), available(t), orDash(t.Name))
		}
	}
}

func available(t mdev.Type) string {
	switch t.Available {
	case -1:
		return "-"
	case 0:
		return "none left"
	}
	return fmt.Sprintf("%d left", t.Available)
}

// mdevListView is what stile mdev list --json prints.
type mdevListView struct {
	Devices []mdev.Device `json:"devices"`
	// Definitions are those of mdevctl.
	Definitions []mdev.Definition `json:"definitions"`
	// Stale are functions that killed processes left half wrapped.
	Stale []hostpci.BDF `json:"stale"`
}

func newMdevListCommand() *cobra.Command {
	var f mdevFlags
	return f.addJSON(&cobra.Command{
		Use:   "list",
		Short: "Show the mediated devices, their groups and who holds them",
		Long: `list shows the mediated devices of this host: parent, type, IOMMU group and who has that
open. It also shows mdevctl's definitions (/etc/mdevctl.d) of devices that are not there.
It needs no root; without root, holders of other users are not seen.`,
		Example: "  stile mdev list --json",
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return listMdevs(&f) },
	})
}

func listMdevs(f *mdevFlags) error {
	host := f.host()
	devices, err := host.Devices()
	if err != nil {
		return err
	}
	definitions, err := host.Definitions()
	if err != nil {
		say.Line(os.Stderr, err.Error())
	}
	stale := host.Stale()
	if f.asJSON {
		return printJSON(mdevListView{devices, definitions, stale})
	}
	if len(devices)+len(definitions)+len(stale) == 0 {
		fmt.Println("No mediated devices.\n→ stile mdev types shows what can be made")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	there := make(map[string]bool)
	for _, d := range devices {
		there[d.UUID] = true
		fmt.Fprintf(w, "%s\t%s\t%s\t%s%s\n", d.UUID, orDash(d.Parent), orDash(d.Type), mdevGroup(d), heldBy(&hostpci.Group{Holders: d.Holders}))
	}
	for _, d := range definitions {
		if !there[d.UUID] {
			fmt.Fprintf(w, "%s\t%s\t%s\tdefined for mdevctl, not there\n", d.UUID, d.Parent, d.Type)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range stale {
		fmt.Printf("\n%v was left half wrapped by a stile that was killed.\n→ stile unbind --stale\n", b)
	}
	return nil
}

// mdevGroup says where a device's memory accesses are checked.
func mdevGroup(d mdev.Device) string {
	switch {
	case d.Group == nil:
		return "no group: its driver checks its memory accesses"
	case d.Emulated:
		return fmt.Sprintf("group %d of its own, emulated: its driver checks its memory accesses", *d.Group)
	case d.ParentGroup:
		return fmt.Sprintf("IOMMU group %d, its parent's", *d.Group)
	}
	return fmt.Sprintf("IOMMU group %d", *d.Group)
}

func newMdevCreateCommand() *cobra.Command {
	var f mdevFlags
	return f.addJSON(&cobra.Command{
		Use:   "create PARENT TYPE [UUID] | UUID",
		Short: "Make a mediated device",
		Long: `create makes a mediated device of a parent and prints its UUID, a new one if none is
given. The type may be named by the end of its name. With a UUID alone, parent, type and
attributes come from mdevctl's definition (/etc/mdevctl.d). It needs root.`,
		Example: `  stile mdev create 0000:00:02.0 i915-GVTg_V5_4
  stile mdev create mtty 2 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(_ *cobra.Command, args []string) error {
			uuid, err := createMdev(f.host(), args)
			if err != nil {
				return err
			}
			if f.asJSON {
				return printJSON(map[string]string{"uuid": uuid})
			}
			fmt.Println(uuid)
			return nil
		},
	})
}

func createMdev(host *mdev.Host, args []string) (string, error) {
	switch len(args) {
	case 3:
		return host.Create(args[0], args[1], args[2])
	case 2:
		return host.Create(args[0], args[1], "")
	}
	uuid, err := mdev.ParseUUID(args[0])
	if err != nil {
		return "", fmt.Errorf("name a parent and a type, or the UUID of a definition: %w", err)
	}
	definitions, err := host.Definitions()
	for _, d := range definitions {
		if d.UUID == uuid {
			return uuid, host.CreateDefined(d)
		}
	}
	return "", errors.Join(err, fmt.Errorf("mdevctl has no definition of %s (/etc/mdevctl.d); name parent and type, too", uuid))
}

func newMdevRemoveCommand() *cobra.Command {
	var f mdevFlags
	c := f.add(&cobra.Command{
		Use:   "remove UUID",
		Short: "Remove a mediated device",
		Long: `remove removes a mediated device. It needs root. A device that is in use is refused and
its holder named, because the kernel would wait until that closes it. With --force the
kernel asks the holder to let go, and stile waits, and says so.`,
		Example: "  stile mdev remove 5b4d4b0c-9f3c-4d0d-8f6e-0f5f0c6f3a11",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return f.host().Remove(args[0], mdev.RemoveOptions{Force: f.force, Notice: notice})
		},
	})
	c.Flags().BoolVar(&f.force, "force", false, "remove a device in use as soon as its holder closes it")
	return c
}

func newMdevWrapCommand() *cobra.Command {
	var f mdevFlags
	var uuid string
	c := f.addJSON(&cobra.Command{
		Use:   "wrap ADDRESS",
		Short: "Make a whole PCI function a mediated device in its IOMMU group",
		Long: `wrap binds a PCI function to the driver vfio-mdev-pci and makes one mediated device of it.
The kernel module with that driver is built when it is needed, which takes make, gcc and
the kernel's headers: the installed ones, or else those that apt has, which are fetched
into the cache and not installed. What the function had before comes back with stile mdev unwrap.
Either all of it is done or nothing. It needs root.

Refused is what stile bind refuses, too: bridges, functions without IOMMU group,
functions in use.

` + hostpci.Rule,
		Example: `  stile mdev wrap 0000:01:00.0
  stile run --device $(stile mdev wrap 01:00.0 --json | jq -r .uuid) -- lspci`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return wrap(c.Context(), &f, args[0], uuid) },
	})
	c.Flags().StringVar(&uuid, "uuid", "", "`UUID` of the mediated device (default a new one)")
	c.Flags().BoolVar(&f.force, "force", false, "wrap although something on this host uses the function")
	return c
}

func wrap(ctx context.Context, f *mdevFlags, address, uuid string) error {
	host := f.host()
	b, err := host.PCI().Resolve(address)
	if err != nil {
		return err
	}
	w, err := host.Wrap(b, mdev.WrapOptions{UUID: uuid, Force: f.force, Notice: notice, Driver: func() error { return ensureModule(ctx) }})
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(w)
	}
	printWrapped(w)
	return nil
}

// ensureModule loads the kernel module, and builds it if it must.
func ensureModule(ctx context.Context) error {
	cache, err := images.OpenModules()
	if err != nil {
		return err
	}
	m, err := mdev.RunningModule(cache, notice)
	if err != nil {
		return err
	}
	if outer := images.OpenOuter(); outer != nil {
		m.Others = append(m.Others, outer)
	}
	m.Fetch = func(ctx context.Context) (string, error) { return fetchHeaders(ctx, cache, m.Others, m.Release) }
	return m.Ensure(ctx)
}

// buildModule builds the kernel module for a kernel of the lab: in there it would take a minute.
func buildModule(ctx context.Context, cache *images.Cache, k *distro.Kernel) error {
	m := &mdev.Module{Release: k.Release, Headers: []string{k.Headers}, Cache: cache, Progress: notice}
	_, err := m.Build(ctx)
	return err
}

// fetchHeaders returns what the module is built against, where the running kernel's own is not installed.
func fetchHeaders(ctx context.Context, cache *images.Cache, others []*images.Cache, release string) (string, error) {
	for _, c := range others {
		if dir, ok := distro.LookupHeaders(c, release); ok {
			return dir, nil
		}
	}
	return distro.FetchHeaders(ctx, cache, release, notice)
}

// printWrapped says what a user must know of a wrapped function.
func printWrapped(w *mdev.Wrapped) {
	fmt.Println(w.UUID)
	fmt.Printf("\n%s is the mediated device of %v, in the same group.\n%s: %s\n", w.UUID, w.Function, groupTitle(w.Group), groupState(w.Group))
	for _, m := range w.Others() {
		fmt.Printf("  also in it: %s (%s)\n", m.Name, m.Status)
	}
	if w.Group.Viability.Remedy != "" {
		fmt.Printf("→ %s\n", w.Group.Viability.Remedy)
	}
	fmt.Printf(`
%s
The function stays with a driver of the host, %s, which leaves it idle and
is trusted, as all of the kernel is, not to start DMA: that would reach the guest's memory.
The group serves nothing else meanwhile, and what is in it goes to one guest.
The device answers to its UUID alone, not to %v.
→ stile run --device %s
→ stile mdev unwrap %v gives the function back to %s
`, hostpci.Rule, hostpci.DonorDriver, w.Function, w.UUID, w.Function, noDriver(w.From))
}

func newMdevUnwrapCommand() *cobra.Command {
	var f mdevFlags
	c := f.addJSON(&cobra.Command{
		Use:   "unwrap ADDRESS | UUID",
		Short: "Undo a wrap: give the PCI function back to its driver",
		Long: `unwrap removes the mediated device and gives the function back to the driver that it
had. It needs root. What is in use is refused and its holder named.`,
		Example: "  stile mdev unwrap 0000:01:00.0",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			u, err := f.host().Unwrap(args[0], mdev.UnwrapOptions{Force: f.force, Notice: notice})
			if err != nil {
				return err
			}
			if f.asJSON {
				return printJSON(u)
			}
			fmt.Printf("%v: %s → %s\n", u.Function, strings.Join(append(u.Devices, hostpci.DonorDriver), ", "), noDriver(u.Driver))
			return nil
		},
	})
	c.Flags().BoolVar(&f.force, "force", false, "unwrap also what stile did not wrap; the kernel then chooses the driver")
	return c
}
