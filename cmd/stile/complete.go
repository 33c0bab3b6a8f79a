package main

import (
	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vfio"
	"github.com/stile-vmm/stile/vmm"
)

// flagWords returns what shells complete flags with that take one of some words. A flag of this name means the same in every command.
func flagWords() map[string][]string {
	policies := []string{string(vmm.Stop), string(vmm.Warn)}
	return map[string][]string{
		"on":              {"auto", "host", "lab"},
		"on-reboot":       {string(vmm.RebootExit), string(vmm.RebootReset)},
		"on-oops":         policies,
		"on-unplug":       policies,
		"on-device-error": policies,
		"vfio":            {string(vfio.Legacy), string(vfio.IOMMUFD)},
	}
}

// flagWordsOrFiles are those of flags that take files, too.
func flagWordsOrFiles() map[string][]string {
	words := map[string][]string{
		"root":   {guest.RootHost, guest.RootNone, guest.RootURoot},
		"kernel": {guest.KernelDefault, guest.KernelHost, "debian:6.1", "debian:6.12"},
	}
	for _, t := range lab.Topologies() {
		words["topology"] = append(words["topology"], t.Name)
	}
	return words
}

// completeFlags has shells complete the values of c's flags, and of those of the commands below it.
func completeFlags(c *cobra.Command) {
	register := func(words map[string][]string, directive cobra.ShellCompDirective) {
		for name, list := range words {
			if c.Flags().Lookup(name) != nil { // else there is nothing to complete
				_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, directive))
			}
		}
	}
	register(flagWords(), cobra.ShellCompDirectiveNoFileComp)
	register(flagWordsOrFiles(), cobra.ShellCompDirectiveDefault)
	for _, sub := range c.Commands() {
		completeFlags(sub)
	}
}
