package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
)

const attachHelp = `Attach to the console of a running VM: its latest output, what it prints from now on, and
your input. Several may be attached at once. It ends with the VM; Ctrl-A x leaves the VM alone and
ends, Ctrl-A Ctrl-A is one Ctrl-A. Standard input that is no terminal is sent as it is.`

func newConsoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "console ID",
		Short:             "Attach to a running VM's console",
		Long:              attachHelp,
		Example:           "  stile console web",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeID,
		RunE:              func(c *cobra.Command, args []string) error { return attachConsole(c.Context(), args[0]) },
	}
}

// attachConsole joins this process's terminal with a VM's console.
func attachConsole(ctx context.Context, prefix string) error {
	id, err := control.Find(prefix)
	if err != nil {
		return err
	}
	_, conn, err := control.Attach(ctx, id, &control.Request{Op: control.OpConsole})
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	defer conn.Close()
	s := watchSignals()
	defer s.stop()
	t := &terminal{}
	if isTerminal(os.Stdin) {
		fmt.Fprintf(os.Stderr, "stile: attached to %s; Ctrl-A x leaves\n", id)
		if t, err = rawTerminal(os.Stdin, s); err != nil {
			return err
		}
	}
	defer t.restore()
	defer context.AfterFunc(s.boot(), func() { conn.Close() })()
	input := &escapeReader{in: os.Stdin, escape: func() { conn.Close() }, active: t.file != nil}
	go func() { _, _ = io.Copy(conn, input) }() // ends with the process; the end of the input is not the console's
	_, err = io.Copy(os.Stdout, conn)
	t.restore()
	if status := s.status(); status != 0 {
		return exitError{status}
	}
	return ignoreClosed(err)
}

const logsHelp = `Print what a VM printed on its console, and what its kernel's log has besides: a running one's, or one of
the last 32 that ended.
Without an ID, that of the VM that printed last. Logs are kept in the folder "console" of stile's
cache, at most 2 MiB of each; "stile run -v" makes the kernel print more.`

func newLogsCommand() *cobra.Command {
	follow, raw := false, false
	c := &cobra.Command{
		Use:     "logs [ID]",
		Short:   "Print a VM's console log, also after its end",
		Long:    logsHelp,
		Example: "  stile logs\n  stile logs -f web",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			dir, err := guest.LogDir()
			if err != nil {
				return err
			}
			id, err := control.FindLog(dir, prefix)
			if err != nil {
				return err
			}
			out := io.WriteCloser(os.Stdout)
			if !raw {
				out = say.Writer(os.Stdout)
			}
			if follow {
				err = followLog(c.Context(), out, dir, id)
			} else {
				err = printLog(out, dir, id)
			}
			if raw {
				return err
			}
			return errors.Join(err, out.Close())
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			dir, err := guest.LogDir()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return control.Logs(dir), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what a running VM prints, until it ends")
	c.Flags().BoolVar(&raw, "raw", false, "print what the VM has printed byte by byte, with what a terminal obeys (default: as \\x1b and the like)")
	return c
}

// printLog prints a log, or says that there is nothing in it.
func printLog(out io.Writer, dir, id string) error {
	size, err := control.ReadLog(dir, id, out)
	if err == nil && size == 0 {
		notice(id + " has printed nothing, as kernels do that meet no trouble; with stile run -v they print all")
	}
	return err
}

// followLog prints a running VM's console as it comes. Of one that has ended it prints the log.
func followLog(ctx context.Context, out io.Writer, dir, id string) error {
	_, conn, err := control.Attach(ctx, id, &control.Request{Op: control.OpLog})
	var none *control.NoVMError
	if errors.As(err, &none) {
		return printLog(out, dir, id)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	defer conn.Close()
	_, err = io.Copy(out, conn)
	return ignoreClosed(err)
}

// ignoreClosed drops the error that only says that this process ended its connection.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
