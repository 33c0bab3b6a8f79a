package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const completionHelp = `Print a script that has the shell complete stile's commands, flags, their values and the IDs of VMs.

bash (needs the package bash-completion), for you or for everybody:
  stile completion bash >~/.local/share/bash-completion/completions/stile
  stile completion bash >/etc/bash_completion.d/stile
zsh, into a folder of $fpath:
  stile completion zsh >"${fpath[1]}/_stile"
fish:
  stile completion fish >~/.config/fish/completions/stile.fish
A new shell knows it; eval "$(stile completion bash)" has this one know it.`

// addHelp adds the commands that cobra would add by itself, with what theirs lack: examples, and a failure at what they do not know.
func addHelp(root *cobra.Command) {
	root.SetHelpCommand(&cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Print the help of a command",
		Example: "  stile help run\n  stile help lab kernel build",
		RunE:    func(c *cobra.Command, args []string) error { return printHelp(c.Root(), args) },
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return subcommands(c.Root(), args), cobra.ShellCompDirectiveNoFileComp
		},
	})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short, c.Long, c.Example = "Print a script by which a shell completes commands", completionHelp, `  eval "$(stile completion bash)"`
		for _, shell := range c.Commands() {
			shell.Short = "Print the script for " + shell.Name()
			shell.Example = "  stile completion " + shell.Name() + " >stile-completion"
		}
	}
}

// printHelp prints the help of the command that args name.
func printHelp(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err == nil && len(rest) > 0 {
		err = noSuchCommand(c, rest)
	}
	if err != nil {
		return fmt.Errorf("%w: no help on %s; see stile --help", err, strings.Join(args, " "))
	}
	c.InitDefaultHelpFlag()
	return c.Help()
}

// subcommands returns those of the command that args name, with what they do.
func subcommands(root *cobra.Command, args []string) []cobra.Completion {
	c, _, err := root.Find(args)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
		}
	}
	return names
}
