package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// testShorts are stile run's short flags that stile test takes, too, and their names. -c is go test's where no number follows.
var testShorts = map[string]string{"k": "kernel", "m": "memory", "c": "cpus"}

// goTestFlags are those of go test that have the name of one of stile's.
var goTestFlags = []string{"timeout", "json", "cpu", "c", "v", "a", "i", "help", "h"}

// testFlag returns the name of the flag of fs that args begin with, by one dash or two, or by one letter, and how many of args it takes;
// "" if args begin otherwise.
func testFlag(fs *pflag.FlagSet, args []string) (name, value string, n int) {
	flag, long := strings.CutPrefix(args[0], "--")
	if !long {
		var ok bool
		if flag, ok = strings.CutPrefix(args[0], "-"); !ok {
			return "", "", 0
		}
	}
	name, value, hasValue := strings.Cut(flag, "=")
	n = 1
	if !hasValue && len(args) > 1 {
		value, n = args[1], 2
	}
	_, err := strconv.Atoi(value)
	switch full, short := testShorts[name]; {
	case short && !long && (name != "c" || err == nil):
		name = full
	case name == "help" || !long && slices.Contains(goTestFlags, name) || len(name) < 2 || fs.Lookup(name) == nil:
		return "", "", 0
	}
	if f := fs.Lookup(name); f.NoOptDefVal != "" && !hasValue { // a switch
		value, n = f.NoOptDefVal, 1
	}
	return name, value, n
}

// splitTestArgs returns the flags of fs at the start of args, each as --NAME=VALUE, and the rest. One that lacks its value is left as it
// is, for the parser to complain of.
func splitTestArgs(fs *pflag.FlagSet, args []string) (own, rest []string) {
	for len(args) > 0 {
		name, value, n := testFlag(fs, args)
		if name == "" {
			return own, args
		}
		if n == 1 && !strings.Contains(args[0], "=") && fs.Lookup(name).NoOptDefVal == "" {
			return append(own, "--"+name), nil
		}
		own, args = append(own, "--"+name+"="+value), args[n:]
	}
	return own, nil
}

// misplaced refuses flags of stile among those of go test, before anything is built: go test would hand them to the test binary, or say
// that it has no such flag. What is behind -args is the binary's. run has the flags of stile run.
func misplaced(fs, run *pflag.FlagSet, args []string) error {
	packages := false
	for i, arg := range args {
		if arg == "-args" || arg == "--args" {
			return nil
		}
		flag := strings.TrimLeft(arg, "-")
		if flag == arg {
			packages = true
			continue
		}
		if name, _, _ := testFlag(fs, args[i:]); name != "" {
			return fmt.Errorf("%s stands behind go test's flags or packages: write it first, as in stile test --%s=… .; one for the test binary goes behind -args", arg, name)
		}
		name, _, _ := strings.Cut(flag, "=")
		if !packages && len(name) > 1 && !slices.Contains(goTestFlags, name) && run.Lookup(name) != nil && strings.HasPrefix(arg, "--") {
			return fmt.Errorf("stile test has no flag --%s, which is one of stile run; see stile test --help", name)
		}
	}
	return nil
}

// misspelt refuses a flag at the start of args, of which go test would say that there is no such one, where one of fs is
// much like it.
func misspelt(fs *pflag.FlagSet, args []string) error {
	if len(args) == 0 {
		return nil
	}
	flag, ok := strings.CutPrefix(args[0], "--")
	name, _, _ := strings.Cut(flag, "=")
	const alike = 3 // characters at the beginning; go test has flags that are shorter, or begin otherwise
	var err error
	fs.VisitAll(func(f *pflag.Flag) {
		if ok && len(name) > alike && strings.HasPrefix(f.Name, name[:alike]) && editDistance(name, f.Name) <= 2 {
			err = fmt.Errorf("unknown flag: --%s (did you mean --%s?); see stile test --help", name, f.Name)
		}
	})
	return err
}
