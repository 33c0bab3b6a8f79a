package vmtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/testrun"
)

// Main runs all of a test binary's tests, benchmarks and examples in a VM, as root of the guest, and ends the process with
// their exit status. It is what TestMain does:
//
//	func TestMain(m *testing.M) { vmtest.Main(m) }
//
// The binary runs in the guest with the same arguments, environment and working directory, so that go test and its flags work as
// always: output passes through as it comes, profiles, coverage and artifacts come back to where they belong. -fuzz is
// refused; -list needs no VM. Code before Main runs on both sides.
//
// Where no VM can run, no test does, and the reason is printed.
func Main(m *testing.M) { Config{}.Main(m) }

// Main is the function Main with a VM of c.
func (c Config) Main(m *testing.M) {
	if InGuest() || testrun.ParseFlags(os.Args[1:]).Lists() {
		os.Exit(m.Run())
	}
	status, err := c.runMain()
	if unavailable := (*guest.UnavailableError)(nil); errors.As(err, &unavailable) && !testenv.Required("lab") {
		fmt.Fprintf(os.Stderr, "vmtest: no test is run, because no VM can: %v\n", err)
		os.Exit(runNone(m))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
	}
	os.Exit(status)
}

// runMain runs this binary in a VM and returns the exit status for it.
func (c Config) runMain() (int, error) {
	if err := errors.Join(c.runsTests(), c.spec().Validate()); err != nil {
		return guest.ExitSetup, err
	}
	self, err := os.Executable()
	if err != nil {
		return guest.ExitSetup, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return guest.ExitSetup, err
	}
	status, err := testrun.InVM(c.spec(), c.where(), &testrun.Command{
		Path: self, Args: os.Args[1:], Dir: dir,
	})
	if err == nil {
		err = logInputs(context.Background(), c.spec(), os.Args[1:])
	}
	return status, err
}

// runNone lets the go command see that there was no test.
func runNone(m *testing.M) int {
	flag.Parse()
	err := errors.Join(flag.Set("test.run", "^$"), flag.Set("test.bench", ""))
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		return guest.ExitSetup
	}
	return m.Run()
}
