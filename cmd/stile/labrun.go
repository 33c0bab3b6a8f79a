package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/lab"
)

func newLabRunCommand() *cobra.Command {
	f, tty := &labFlags{}, false
	c := &cobra.Command{
		Use:   "run [flags] [--] COMMAND [ARG]...",
		Short: "Run a command in the nested host",
		Long: `Resume the nested host and run a command in it, as root, in the current directory, with
its own stdin, stdout and stderr. Exit status: the command's own, 128+n if signal n
killed it, 126 or 127 if it could not be started, 125 if the lab failed.`,
		Example: `  stile lab run -- ls /sys/kernel/iommu_groups
  tar c . | stile lab run -- tar t`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.run(always(args), tty, false) },
	}
	c.Flags().SetInterspersed(false) // the command's own flags are not ours
	f.add(c.Flags())
	c.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	return c
}

func newLabShellCommand() *cobra.Command {
	f := &labFlags{}
	c := &cobra.Command{
		Use:     "shell",
		Short:   "Run a shell in the nested host",
		Example: "  stile lab shell --topology multifunction",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			return f.run(always([]string{shell(guest.RootHost)}), isTerminal(os.Stdin), false)
		},
	}
	f.add(c.Flags())
	return c
}

func newLabDevicesCommand() *cobra.Command {
	f, asJSON := &labFlags{}, false
	c := &cobra.Command{
		Use:     "devices [BDF]",
		Short:   "Show the nested host's PCI functions and IOMMU groups",
		Long:    `Run "stile devices" in the nested host.`,
		Example: "  stile lab devices\n  stile lab devices 05:00.0",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			args = append([]string{"devices"}, args...)
			if asJSON {
				args = append(args, "--json")
			}
			return f.run(func(h *guest.LabHost) []string { return append([]string{h.Program()}, args...) }, false, true)
		},
	}
	f.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func always(args []string) func(*guest.LabHost) []string {
	return func(*guest.LabHost) []string { return args }
}

// run runs a command in the nested host and returns its exit status as an error. own tells that the command is a stile
// that the user has not typed in there.
func (f *labFlags) run(command func(*guest.LabHost) []string, tty, own bool) error {
	s := watchSignals()
	defer s.stop()
	dir, err := currentDir(!own)
	if err != nil {
		return err
	}
	host, done, err := f.open(s)
	if err != nil {
		return err
	}
	defer done()
	defer host.Close()
	o := &lab.Options{Args: command(host), Dir: dir, Stdin: standardInput(), Stdout: os.Stdout, Stderr: os.Stderr}
	if own {
		o.Env = host.Typed()
	}
	restore, err := attachTerminal(o, tty, s)
	if err != nil {
		return err
	}
	defer restore()
	toCommand := make(signalChannel, 4)
	o.Signals = toCommand
	defer s.forward(toCommand)()
	status, err := host.Exec(s.boot(), o)
	failed := streamFailed(status, err)
	switch {
	case s.status() != 0:
		return exitError{s.status()}
	case failed != nil:
		say.Line(os.Stderr, failed.err.Error())
		return exitError{failed.status}
	case err != nil:
		return startStatus(err)
	case status.ExitCode() != 0:
		return exitError{status.ExitCode()}
	}
	return nil
}

// startStatus turns a command that could not be started into its exit status.
func startStatus(err error) error {
	var start *session.StartError
	if !errors.As(err, &start) {
		return err
	}
	say.Line(os.Stderr, err.Error())
	return exitError{start.ExitCode()}
}

// attachTerminal gives the command this process's terminal, in raw mode until the returned function is called.
func attachTerminal(o *lab.Options, wanted bool, s *signals) (restore func(), err error) {
	if !wanted {
		return func() {}, nil
	}
	t, err := rawTerminal(os.Stdin, s)
	if err != nil {
		return nil, err
	}
	size, sizes := t.size(), make(chan agentproto.Winsize, 1)
	o.TTY, o.Sizes = &size, sizes
	unwatch := t.watchSize(func(w agentproto.Winsize) { sizes <- w })
	return func() { unwatch(); t.restore() }, nil
}
