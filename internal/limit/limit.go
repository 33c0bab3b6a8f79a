// Package limit tells which resource limit of the process, its cgroup or the machine made an operation fail.
package limit

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Error is an error with the limit that is behind it. Trying again doesn't help.
type Error struct {
	// Err is what failed.
	Err error
	// Limit names the limit and what to do, in one sentence.
	Limit string
}

// Error returns both in one line.
func (e *Error) Error() string { return e.Err.Error() + ": " + e.Limit }

// Unwrap returns what failed.
func (e *Error) Unwrap() error { return e.Err }

// Explain adds to err the limit that is behind it. An err without one, or with one that is named already, is returned as
// it is, and so is nil.
func Explain(err error) error {
	if errors.As(err, new(*Error)) {
		return err
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	path := ""
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		path = p.Path
		// Elsewhere it says that something is not ready yet.
		if errno == unix.EAGAIN && p.Op != "fork/exec" {
			return err
		}
	} else if errno == unix.EAGAIN {
		return err
	}
	if errno == unix.ENOENT && path == "/dev/null" {
		return &Error{err, "this /dev is not complete: programs can't be started without /dev/null"}
	}
	if text := ofErrno(errno); text != "" {
		return &Error{err, text}
	}
	return err
}

// Said returns the limit that a program's messages name by the C library's words for errors in English, or by Go's, "" for none.
func Said(lines ...string) string {
	for _, line := range lines {
		for _, known := range words {
			if strings.Contains(strings.ToLower(line), strings.ToLower(known.text)) {
				return ofErrno(known.errno)
			}
		}
	}
	return ""
}

var words = []struct {
	text  string
	errno syscall.Errno
}{
	{"Too many open files in system", unix.ENFILE}, {"Too many open files", unix.EMFILE},
	{"Resource temporarily unavailable", unix.EAGAIN}, // of a thread that could not be made
	{"Cannot allocate memory", unix.ENOMEM}, {"failed to allocate", unix.ENOMEM}, {"out of memory", unix.ENOMEM},
	{"No space left on device", unix.ENOSPC}, {"Disk quota exceeded", unix.EDQUOT}, {"File too large", unix.EFBIG},
}

// Signalled returns the limit that a signal which ended a program stands for, "" for none.
func Signalled(sig syscall.Signal) string {
	switch sig {
	case unix.SIGXCPU:
		return fmt.Sprintf("the limit of CPU time is %s: raise it with ulimit -t", value(unix.RLIMIT_CPU, "s"))
	case unix.SIGXFSZ:
		return ofErrno(unix.EFBIG)
	}
	return ""
}

func ofErrno(errno syscall.Errno) string {
	switch errno {
	case unix.EMFILE:
		return fmt.Sprintf("the limit of open files is %s: raise it with ulimit -n", value(unix.RLIMIT_NOFILE, ""))
	case unix.ENFILE:
		return "the machine's limit of open files is reached: raise it with sysctl fs.file-max"
	case unix.EAGAIN:
		return fmt.Sprintf("the limit of processes and threads is %s: raise it with ulimit -u, or pids.max of the cgroup", value(unix.RLIMIT_NPROC, ""))
	case unix.ENOMEM:
		return fmt.Sprintf("there is not enough memory; the limit of address space is %s (ulimit -v), and the cgroup may have one (memory.max)",
			value(unix.RLIMIT_AS, " bytes"))
	case unix.EFBIG:
		return fmt.Sprintf("the limit of a file's size is %s: raise it with ulimit -f", value(unix.RLIMIT_FSIZE, " bytes"))
	case unix.ENOSPC:
		return "the disk is full"
	case unix.EDQUOT:
		return "the disk quota is used up"
	}
	return ""
}

// value is a soft limit of this process with its unit. Go raises that of open files for itself, which changes nothing
// where both limits are the same.
func value(resource int, unit string) string {
	var l unix.Rlimit
	if unix.Getrlimit(resource, &l) != nil || l.Cur == unix.RLIM_INFINITY {
		return "not set"
	}
	return fmt.Sprintf("%d%s", l.Cur, unit)
}
