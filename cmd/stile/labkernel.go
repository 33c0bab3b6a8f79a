package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/kbuild"
)

func newLabKernelCommand() *cobra.Command {
	c := &cobra.Command{Use: "kernel", Short: "The kernel that stile builds for the nested host"}
	c.AddCommand(newLabKernelBuildCommand())
	return c
}

func newLabKernelBuildCommand() *cobra.Command {
	o := kbuild.Options{Progress: func(line string) { fmt.Fprintln(os.Stderr, "stile: "+line) }}
	c := &cobra.Command{
		Use:   "build",
		Short: "Build a kernel for the nested host from the distribution's source package",
		Long: `Fetch the distribution's kernel source package and build a small kernel from it, with
what distributions switch off: iommufd and VFIO's device files. It takes 5 to 15 minutes
once and is kept in the cache; the lab then uses it wherever no other kernel is asked
for, and guests in the lab run twice as fast.

--debug adds KASAN and lockdep, for work on kernel modules; that kernel is used with
"--kernel debug" only.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cache, err := images.Open("")
			if err != nil {
				return err
			}
			s := watchSignals()
			defer s.stop()
			k, err := kbuild.Build(s.boot(), cache, o)
			if status := s.status(); status != 0 {
				return exitError{status}
			}
			if err != nil {
				return err
			}
			fmt.Printf("%s\t%s\n", k.Release, k.Image)
			return nil
		},
	}
	c.Flags().StringVar(&o.Version, "version", "", "the kernel's version, 6.1 or 6.12 (default: the newest that was tried)")
	c.Flags().BoolVar(&o.Debug, "debug", false, "with KASAN, lockdep and debugging of objects")
	return c
}
