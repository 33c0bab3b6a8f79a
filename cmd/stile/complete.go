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
		"on-oops":         {string(vmm.Stop), string(vmm.Warn), string(vmm.Ignore)},
		"exit-codes":      {codesCommand, codesBisect},
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

// completeFlags has shells complete the values of the flags of root, and of all commands below it.
func completeFlags(root *cobra.Command) {
	completions := make(map[string]cobra.CompletionFunc)
	for name, words := range flagWords() {
		completions[name] = cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	for name, words := range flagWordsOrFiles() {
		completions[name] = cobra.FixedCompletions(words, cobra.ShellCompDirectiveDefault)
	}
	register(root, completions)
}

func register(c *cobra.Command, completions map[string]cobra.CompletionFunc) {
	for name, completion := range completions {
		if c.Flags().Lookup(name) != nil { // else there is nothing to complete
			_ = c.RegisterFlagCompletionFunc(name, completion)
		}
	}
	for _, sub := range c.Commands() {
		register(sub, completions)
	}
}
