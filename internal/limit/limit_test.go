package limit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExplain(t *testing.T) {
	fork := func(errno syscall.Errno) error { return &fs.PathError{Op: "fork/exec", Path: "/bin/true", Err: errno} }
	for _, tt := range []struct {
		err  error
		want string // "" for an error that no limit is behind
	}{
		{unix.EMFILE, "ulimit -n"},
		{fmt.Errorf("open it: %w", &fs.PathError{Op: "open", Path: "/x", Err: unix.EMFILE}), "ulimit -n"},
		{os.NewSyscallError("socketpair", unix.ENFILE), "fs.file-max"},
		{fork(unix.EAGAIN), "ulimit -u"},
		{fork(unix.ENOMEM), "ulimit -v"},
		{unix.EAGAIN, ""},
		{&fs.PathError{Op: "read", Path: "/x", Err: unix.EAGAIN}, ""},
		{&fs.PathError{Op: "open", Path: os.DevNull, Err: unix.ENOENT}, "without /dev/null"},
		{&fs.PathError{Op: "open", Path: "/x", Err: unix.ENOENT}, ""},
		{&fs.PathError{Op: "write", Path: "/x", Err: unix.ENOSPC}, "the disk is full"},
		{&fs.PathError{Op: "truncate", Path: "/x", Err: unix.EFBIG}, "ulimit -f"},
		{errors.New("other"), ""},
		{nil, ""},
	} {
		got := Explain(tt.err)
		if tt.want == "" {
			if got != tt.err {
				t.Errorf("%v became %v", tt.err, got)
			}
			continue
		}
		if !errors.Is(got, tt.err) || !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%v became %v, without %q", tt.err, got, tt.want)
		}
		if again := Explain(fmt.Errorf("again: %w", got)); strings.Count(again.Error(), tt.want) != 1 {
			t.Errorf("explained twice: %v", again)
		}
	}
}

func TestSaid(t *testing.T) {
	for line, want := range map[string]string{
		"qemu-system-x86_64: cannot set up guest memory 'ram0': Cannot allocate memory": "ulimit -v",
		"qemu: qemu_thread_create: Resource temporarily unavailable":                    "ulimit -u",
		"Failed to create eventfd: Too many open files":                                 "ulimit -n",
		"GLib-ERROR **: failed to allocate 4096 bytes":                                  "ulimit -v",
		"qemu-system-x86_64: -cpu bogus: unable to find CPU model 'bogus'":              "",
	} {
		if got := Said("first", line); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q says %q, want %q", line, got, want)
		}
	}
	if got := Signalled(unix.SIGXCPU); !strings.Contains(got, "ulimit -t") {
		t.Errorf("SIGXCPU says %q", got)
	}
	if got := Signalled(unix.SIGKILL); got != "" {
		t.Errorf("SIGKILL says %q", got)
	}
}
