package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/session"
)

// streamFailed is the outcome of a command one of whose standard streams failed on this side, nil if err says something else. The
// status is the command's, unless it has noticed nothing, or only that nobody reads any more.
func streamFailed(status session.Status, err error) *outcome {
	var failed *session.StreamError
	if !errors.As(err, &failed) {
		return nil
	}
	cause := failed.Err
	if path := (*fs.PathError)(nil); errors.As(cause, &path) {
		cause = path.Err // its path is that of a descriptor
	}
	what := map[agentproto.Stream]string{
		agentproto.Stdin: "read standard input", agentproto.Stdout: "write standard output", agentproto.Stderr: "write standard error",
		agentproto.Output: "write standard output and standard error", agentproto.StreamTTY: "write to the terminal",
	}
	err = fmt.Errorf("%s: %v", what[failed.Stream], cause) // without the cause: a full disk is not one of stile's own
	if status.ExitCode() != 0 && status.Signal != syscall.SIGPIPE {
		return &outcome{status: status.ExitCode(), reason: "exit", err: err}
	}
	return &outcome{status: guest.ExitSetup, reason: "setup", err: err}
}
