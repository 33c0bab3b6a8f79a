package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/guest"
)

// What --exit-codes takes.
const (
	codesCommand = "command" // the command's own, docs/run.md
	codesBisect  = "bisect"  // what git bisect run understands
)

// Exit statuses for git bisect run: 0 is a good commit, 1 to 124 a bad one, 125 skips it, 126 and 127 are bad, too, and 128 and more end
// the bisection.
const (
	bisectBad   = 1
	bisectMost  = 124
	bisectSkip  = 125
	bisectAbort = 128
)

func checkExitCodes(text string) error {
	if text != codesCommand && text != codesBisect {
		return fmt.Errorf("--exit-codes %q: must be %s or %s", text, codesCommand, codesBisect)
	}
	return nil
}

// bisectStatus turns how a run ended into what git bisect run understands. Only a kernel that can't be had skips a commit: what stile or
// its command line lacks, the next commit lacks, too.
func bisectStatus(r guest.Report, err error) int {
	switch r.Reason {
	case "setup":
		if onlyNoKernel(err) {
			return bisectSkip
		}
		return bisectAbort
	case "not-started":
		return bisectAbort
	case "killed":
		return max(r.Status, bisectAbort)
	}
	if r.Status > bisectMost {
		return bisectBad
	}
	return r.Status
}

// onlyNoKernel reports whether all that err complains of is a kernel that can't be had.
func onlyNoKernel(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !onlyNoKernel(e) })
	}
	if _, ok := err.(*guest.NoKernelError); ok {
		return true
	}
	inner := errors.Unwrap(err)
	return inner != nil && onlyNoKernel(inner)
}

// bisecting reports whether a command line that could not be read asks for bisect's exit codes.
func bisecting(args []string) bool {
	if len(args) == 0 || args[0] != "run" {
		return false
	}
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	at := slices.Index(args, "--exit-codes")
	return slices.Contains(args, "--exit-codes="+codesBisect) || at >= 0 && at+1 < len(args) && args[at+1] == codesBisect
}
