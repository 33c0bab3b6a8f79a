package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/internal/say"
)

func newLabKernelCommand() *cobra.Command {
	c := &cobra.Command{Use: "kernel", Short: "The kernel that stile builds for the nested host"}
	c.AddCommand(newLabKernelBuildCommand())
	return c
}

func newLabKernelBuildCommand() *cobra.Command {
	o := kbuild.Options{Progress: func(line string) { say.Line(os.Stderr, line) }}
	c := &cobra.Command{
		Use:   "build [debug|guest]",
		Short: "Build a kernel from the distribution's source package",
		Long: `Fetch the distribution's kernel source package and build a small kernel from it. It takes 5
to 15 minutes once and is kept in the cache. The path of its bzImage is printed.

  (none)  for the lab's nested host, with what distributions switch off: iommufd and VFIO's
          device files. The lab uses it wherever no other kernel is asked for; guests in the
          lab run twice as fast then. The module of stile mdev wrap is built for it, too
  debug   the same with KASAN and lockdep, for work on kernel modules: --kernel debug
  guest   for guests, to be used as "stile run -k PATH": boots in a quarter of the time of
          the default kernel`,
		Example:   "  stile lab kernel build\n  stile run -k $(stile lab kernel build guest) -- uname -r",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{string(kbuild.LabDebug), string(kbuild.Guest)},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Config = kbuild.Config(args[0])
			}
			return buildKernel(o)
		},
	}
	c.Flags().StringVar(&o.Version, "version", kbuild.DefaultVersion, "the kernel's `VERSION`, as the distribution's source packages are named, such as 6.12, or 7.2@sid from another suite")
	c.Flags().BoolVar(&o.Fresh, "fresh", false, "build again, with the compiler of today, though there is one")
	return c
}

func buildKernel(o kbuild.Options) error {
	cache, err := images.Open("")
	if err != nil {
		return err
	}
	s := watchSignals()
	defer s.stop()
	k, err := kbuild.Build(s.boot(), cache, o)
	if err == nil && o.Config != kbuild.Guest {
		err = buildModule(s.boot(), cache, k)
	}
	if status := s.status(); status != 0 {
		return exitError{status}
	}
	if err != nil {
		return err
	}
	fmt.Println(k.Image)
	return nil
}
