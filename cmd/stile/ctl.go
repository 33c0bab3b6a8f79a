package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/control"
)

const ctlHelp = `Steer a running VM through its control socket. ID is what stile ps shows, or its beginning.

  status            print what is known of the VM, as JSON
  shutdown          power the guest off in order: by stile's agent, or, where there is none, by ACPI's
                    power button, which takes a program in the guest that watches it. The
                    run ends with status 143
  reboot            reboot the guest, by stile's agent; takes run --on-reboot reset
  kill              end the VM at once. The run ends with status 137
  balloon SIZE      take SIZE of its memory from a guest that has --balloon; 0 gives all of it back
  resize DISK SIZE  give a disk another size; DISK is its serial number, or 0 for the first. A smaller
                    one takes --shrink: what is behind its new end is lost`

// ctlLimit is how long a VM may take to do as it is told. Shutdown and reboot are told to
// the agent, and not waited for.
const ctlLimit = time.Minute

// actions are what stile ctl can do, with their arguments.
func actions() map[string][]string {
	return map[string][]string{
		"status": nil, "shutdown": nil, "reboot": nil, "kill": nil, "balloon": {"SIZE"}, "resize": {"DISK", "SIZE"},
	}
}

func newCtlCommand() *cobra.Command {
	shrink := false
	c := &cobra.Command{
		Use:   "ctl ID ACTION [ARG]...",
		Short: "Steer a running VM: status, shutdown, reboot, kill, balloon, resize",
		Long:  ctlHelp,
		Example: `  stile run --name web --balloon -- ./server &
  stile ctl web status
  stile ctl web balloon 256M
  stile ctl web shutdown`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := parseAction(args[1], args[2:])
			if err != nil {
				return err
			}
			if shrink && r.Op != control.OpResize {
				return fmt.Errorf("--shrink: is for resize, not for %s", args[1])
			}
			r.Shrink = shrink
			return steer(c.Context(), args[0], r)
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return completeID(c, args, word)
			case 1:
				return []string{"status", "shutdown", "reboot", "kill", "balloon", "resize"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().BoolVar(&shrink, "shrink", false, "let resize make a disk smaller, and lose what is behind its new end")
	return c
}

// steer sends a request to a VM.
func steer(ctx context.Context, id string, r *control.Request) error {
	id, err := control.Find(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, ctlLimit, fmt.Errorf("%s did not answer within %v", id, ctlLimit))
	defer cancel()
	reply, err := control.Call(ctx, id, r)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if reply.Info != nil {
		return printJSON(reply.Info)
	}
	return nil
}

func parseAction(action string, args []string) (*control.Request, error) {
	wanted, ok := actions()[action]
	if !ok {
		return nil, fmt.Errorf("action %q is unknown: there are status, shutdown, reboot, kill, balloon and resize", action)
	}
	if len(args) != len(wanted) {
		use := strings.Join(append([]string{"stile ctl ID", action}, wanted...), " ")
		return nil, fmt.Errorf("%s: %d arguments; write %s", action, len(args), use)
	}
	r := &control.Request{Op: control.Op(action)}
	var err error
	switch action {
	case "status":
		r.Op = control.OpInfo
	case "balloon":
		if args[0] != "0" {
			r.Size, err = parseSize(args[0])
		}
	case "resize":
		r.Disk = args[0]
		r.Size, err = parseSize(args[1])
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	return r, nil
}
