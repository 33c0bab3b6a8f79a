package main

import (
	"errors"
	"strings"
	"testing"
)

// TestFindCommand has a host without modprobe: a guest has one all the same, if its kernel may take modules.
func TestFindCommand(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for line, missing := range map[string]bool{
		"modprobe": true, "-k default -- modprobe dummy": true, "-k 6.12 -- modprobe dummy": false, "-k 6.12 -- lsmod": false,
		"-k 6.12 -- nosuch": true, "--root uroot -- nosuch": false, "-- ./nosuch": false, "--env PATH=/x -- nosuch": false,
	} {
		f := &runFlags{}
		flags := flagSet(f)
		if err := flags.Parse(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		f.args = flags.Args()
		err := f.findCommand()
		if fault := (*missingError)(nil); errors.As(err, &fault) != missing {
			t.Errorf("%q: %v", line, err)
		}
	}
}
