// Command stile boots throwaway Linux VMs on KVM and runs commands in them.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
)

// version is set by the linker.
var version = ""

func main() {
	guest.MaybeHelper()
	if os.Getenv("PATH") == "" {
		os.Setenv("PATH", defaultPath)
	}
	os.Exit(run(os.Args[1:]))
}

// defaultPath is where programs are looked for without PATH, as shells do.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// exitError carries an exit status that is not a failure of stile's own.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// run executes the command line and returns the exit status.
func run(args []string) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	var status exitError
	if errors.As(err, &status) {
		return status.code
	}
	if errors.As(err, new(flagError)) {
		if all := allFaults(args); all != nil {
			err = all
		}
	}
	for _, line := range messages(guest.ExplainFull(err)) {
		say.Line(os.Stderr, guest.Advice(line))
	}
	if bisecting(args) {
		return bisectAbort
	}
	return guest.ExitSetup
}

// plainValue says what is wrong with a flag's value, and of one that is to be a number, or a time, that it is none, in place of Go's words for it.
func plainValue(err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return err
	}
	return plainFault(value.GetFlag(), value.GetValue(), errors.Unwrap(value))
}

// plainFault is plainValue for a flag that does not take text, because of cause.
func plainFault(flag *pflag.Flag, text string, cause error) error {
	name := flag.Name
	if cause != nil && strings.HasPrefix(cause.Error(), "--"+name) {
		return cause // says all
	}
	switch kind := flag.Value.Type(); {
	case kind == "duration":
		return fmt.Errorf("--%s %q: not a time with its unit, such as 90s, 5m or 1h30m", name, text)
	case errors.As(cause, new(*strconv.NumError)) && kind == "bool":
		return fmt.Errorf("--%s=%s: must be true or false", name, text)
	case errors.As(cause, new(*strconv.NumError)):
		return fmt.Errorf("--%s %q: not a number", name, text)
	case cause == nil:
		return fmt.Errorf("--%s %q is not possible", name, text)
	}
	return fmt.Errorf("--%s: %w", name, cause)
}

// pointTo adds to err where the right flags are told.
func pointTo(c *cobra.Command, err error) error {
	return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
}

// messages splits joined errors into one line each. An error that wraps several and has words of its own is one.
func messages(err error) []string {
	if inner := errors.Unwrap(err); inner != nil && inner.Error() == err.Error() {
		return messages(inner)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []string{err.Error()}
	}
	var lines []string
	for _, e := range joined.Unwrap() {
		lines = append(lines, messages(e)...)
	}
	return lines
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "stile",
		Short: "Boot throwaway Linux VMs and run commands in them",
		Long: `stile boots a throwaway Linux VM on KVM, runs a command in it and hands back the
command's output and exit status. The guest's root is a copy-on-write view of the
host's: it sees the host's programs and writes nothing back.

Where there is no usable KVM, the same command line runs inside a nested host under
QEMU's emulation ("the lab"), which stile boots once and then resumes.`,
		Example: `  stile run -- uname -a                 a command in a VM
  stile run                             a shell in a VM
  stile test ./...                      go test, each test binary in a VM
  stile ps                              what runs
  stile doctor                          what this host can do
  stile completion bash --help          how the shell completes all this`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = versionString()
	root.SetVersionTemplate("stile {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return flagError{pointTo(c, fmt.Errorf("%w%s", plainValue(err), suggestFlag(c, err)))}
	})
	root.AddCommand(newRunCommand(), newPsCommand(), newCtlCommand(), newConsoleCommand(), newLogsCommand())
	root.AddCommand(newTestCommand(), newTestExecCommand())
	root.AddCommand(newDoctorCommand(), newLabCommand(), newImageCommand(), newVersionCommand(), newManCommand())
	root.AddCommand(newDevicesCommand(), newBindCommand(), newUnbindCommand(), newMdevCommand())
	addHelp(root)
	groupOnly(root)
	pointToHelp(root)
	completeFlags(root)
	return root
}

// groupOnly has a command that only holds others complain about one that it does not hold.
func groupOnly(c *cobra.Command) {
	if c.Runnable() || !c.HasSubCommands() {
		return
	}
	c.Args, c.DisableFlagsInUseLine = noSuchCommand, true
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// noArguments refuses any.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is an argument too many", args[0])
	}
	return nil
}

// noSuchCommand refuses a command that c does not hold, and names those that may be meant.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if similar := c.SuggestionsFor(args[0]); len(similar) > 0 {
		err = fmt.Errorf("%w (did you mean %s?)", err, strings.Join(similar, " or "))
	}
	return err
}

// pointToHelp has complaints about the number of arguments say where the right one is told.
func pointToHelp(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			switch {
			case err == nil:
				return nil
			case c.HasSubCommands():
				return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
			}
			return fmt.Errorf("%w: %s; see %s --help", err, c.UseLine(), c.CommandPath())
		}
	}
	for _, sub := range c.Commands() {
		groupOnly(sub)
		pointToHelp(sub)
	}
}
