package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError is the error of a command line whose flags could not be read. pflag stops at the first fault.
type flagError struct{ error }

func (e flagError) Unwrap() error { return e.error }

// allFaults reads a command line again, past each value that a flag does not take, and returns all that is wrong with it; nil for nothing.
// Nothing is run.
func allFaults(args []string) error {
	root := newCommand()
	s := &syntax{}
	s.collect(root)
	root.SetArgs(args)
	err := root.Execute()
	return errors.Join(append(s.faults, err)...)
}

// syntax collects what is wrong with the values of flags.
type syntax struct{ faults []error }

// collect has c, and all commands below it, do nothing but that.
func (s *syntax) collect(c *cobra.Command) {
	for _, sub := range c.Commands() {
		s.collect(sub)
	}
	c.Flags().VisitAll(func(f *pflag.Flag) { f.Value = lenient{f.Value, c, f, s} })
	if c.RunE != nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(*cobra.Command, []string) error { return nil }
	}
}

// lenient is a flag's value that leaves the complaint about a text to syntax.
type lenient struct {
	pflag.Value
	command *cobra.Command
	flag    *pflag.Flag
	syntax  *syntax
}

func (l lenient) Set(text string) error {
	if err := l.Value.Set(text); err != nil {
		l.syntax.faults = append(l.syntax.faults, pointTo(l.command, plainFault(l.flag, text, err)))
	}
	return nil
}
