package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/say"
)

const psHelp = `Show the VMs of this user that run now, those in the lab too, the oldest first.

Each stile run has a UNIX socket in $XDG_RUNTIME_DIR/stile, or in /run/stile for root (STILE_RUN_DIR
names another folder), with the VM's ID as its name. See stile ctl.`

func newPsCommand() *cobra.Command {
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:     "ps",
		Short:   "Show the VMs that run",
		Long:    psHelp,
		Example: "  stile ps\n  stile ps -q | xargs -rn1 -I{} stile ctl {} kill",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			vms, err := control.List(c.Context())
			switch {
			case err != nil:
				return err
			case asJSON && vms == nil:
				return printJSON([]control.Info{})
			case asJSON:
				return printJSON(vms)
			case quiet:
				for _, vm := range vms {
					fmt.Println(vm.ID)
				}
				return nil
			}
			return printVMs(vms)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	return c
}

func printVMs(vms []control.Info) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tAGE\tSTATE\tON\tKERNEL\tCPUS\tMEMORY\tDEVICES\tCOMMAND")
	for _, vm := range vms {
		if vm.State == control.Silent {
			fmt.Fprintf(w, "%s\t\t\t%s\n", say.Word(vm.ID), say.Word(string(vm.State)))
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", say.Word(vm.ID), vm.PID, age(vm.Started), say.Word(string(vm.State)), say.Word(vm.On),
			say.Word(orElse(vm.Kernel, "default")), vm.CPUs, roundSize(int64(vm.Memory)), say.Word(orElse(strings.Join(vm.Devices, ","), "-")), commandLine(vm.Command))
	}
	return w.Flush()
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// age says how long ago t was, in its largest unit.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// commandWidth is how much of a command ps shows, in characters.
const commandWidth = 60

func commandLine(args []string) string {
	if len(args) == 0 {
		return "(console)"
	}
	line := []rune(say.Word(strings.Join(args, " ")))
	if len(line) > commandWidth {
		return string(line[:commandWidth-3]) + "..."
	}
	return string(line)
}

// completeID completes the ID of a running VM.
func completeID(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	ids, err := control.IDs()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
