package main

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

// TestStreamFailed: a standard stream that fails here is an error with a status, the command's where that tells of it.
func TestStreamFailed(t *testing.T) {
	full := &session.StreamError{Stream: agentproto.Stdout, Err: &fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}}
	for _, test := range []struct {
		status session.Status
		want   int
	}{{session.Status{}, 125}, {session.Status{Code: 3}, 3}, {session.Status{Signal: syscall.SIGPIPE}, 125}, {session.Status{Signal: syscall.SIGINT}, 130}} {
		o := streamFailed(test.status, full)
		if o == nil || o.status != test.want || o.err.Error() != "write standard output: no space left on device" {
			t.Errorf("%v: %+v, want status %d", test.status, o, test.want)
		}
	}
	if o := streamFailed(session.Status{}, errors.New("other")); o != nil {
		t.Errorf("another error: %+v", o)
	}
}
