package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command is what a case sets of a command, either exec's or ours.
type command struct {
	path   *string
	args   *[]string
	dir    *string
	stdin  *io.Reader
	stdout *io.Writer
	cancel *func() error

	run, start, wait func() error
	stdinPipe        func() (io.WriteCloser, error)
	stdoutPipe       func() (io.ReadCloser, error)
	signal           func(os.Signal) error
	isExit           func(error) bool
}

// maker makes a command: execCommand, or what vmCommand returns.
type maker func(context.Context, []string) command

func execCommand(ctx context.Context, args []string) command {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	return command{
		&c.Path, &c.Args, &c.Dir, &c.Stdin, &c.Stdout, &c.Cancel, c.Run, c.Start, c.Wait, c.StdinPipe, c.StdoutPipe,
		func(sig os.Signal) error { return c.Process.Signal(sig) },
		func(err error) bool { return errors.As(err, new(*exec.ExitError)) },
	}
}

func vmCommand(vm *VM) maker {
	return func(ctx context.Context, args []string) command {
		c := vm.Command(ctx, args[0], args[1:]...)
		return command{
			&c.Path, &c.Args, &c.Dir, &c.Stdin, &c.Stdout, &c.Cancel, c.Run, c.Start, c.Wait, c.StdinPipe, c.StdoutPipe,
			c.Signal,
			func(err error) bool { return errors.As(err, new(*ExitError)) },
		}
	}
}

var (
	errSource = errors.New("the source is broken")
	errCause  = errors.New("the cause")
)

// broken is a stream of which each use fails.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errSource }
func (broken) Read([]byte) (int, error)  { return 0, errSource }

// exited is what docs/vmtest.md advises to those who want to know both *exec.ExitError and *ExitError.
type exited interface {
	error
	ExitCode() int
	Success() bool
}

// found says which of the errors that a caller may ask for are in err.
func found(err error, isExit func(error) bool) string {
	if err == nil {
		return "nil"
	}
	var names []string
	for _, sentinel := range []error{
		exec.ErrNotFound, fs.ErrNotExist, fs.ErrPermission, fs.ErrClosed, net.ErrClosed, os.ErrProcessDone, context.Canceled, context.DeadlineExceeded,
		syscall.ENOENT, syscall.EACCES, syscall.ENOTDIR, syscall.ENOEXEC, syscall.E2BIG, syscall.EPIPE, syscall.ECONNREFUSED, errSource,
	} {
		if errors.Is(err, sentinel) {
			names = append(names, sentinel.Error())
		}
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) && path.Op != "write" && path.Op != "close" && path.Op != "read" { // a pipe's is not a file here
		names = append(names, "PathError "+path.Op)
	}
	if errors.As(err, new(*exec.Error)) {
		names = append(names, "exec.Error")
	}
	if isExit != nil && isExit(err) {
		names = append(names, "ExitError")
	}
	if exit := (exited)(nil); errors.As(err, &exit) {
		names = append(names, fmt.Sprintf("success %v", exit.Success()))
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		names = append(names, "OpError "+op.Op)
	}
	return strings.Join(names, ", ")
}

// execCase is a way to use a command.
type execCase struct {
	name string
	args []string
	do   func(c command) error // nil to run it
}

func shell(script string) []string { return []string{"sh", "-c", script} }

// startCases are commands of which some can't be started.
func startCases(t *testing.T) []execCase {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := file("plain", "#!/bin/sh\n", 0o644)
	return []execCase{
		{"well", shell("true"), nil},
		{"status", shell("exit 3"), nil},
		{"no such command", []string{"stile-no-such"}, nil},
		{"no such path", []string{"/no/such"}, nil},
		{"below a file", []string{plain + "/x"}, nil},
		{"not executable", []string{plain}, nil},
		{"a folder", []string{dir}, nil},
		{"garbage", []string{file("garbage", "\x00\x01", 0o755)}, nil},
		{"no interpreter", []string{file("no-loader", "#!/no/such/interpreter\n", 0o755)}, nil},
		{"no such folder", shell("true"), func(c command) error { *c.dir = "/no/such"; return c.run() }},
		{"a file as folder", shell("true"), func(c command) error { *c.dir = plain; return c.run() }},
		{"too long an argument", []string{"true", strings.Repeat("x", 200<<10)}, nil},
		{"too many arguments", append([]string{"true"}, strings.Fields(strings.Repeat(strings.Repeat("x", 100<<10)+" ", 90))...), nil},
		{"path and name", []string{"sh", "-c", `test "$0" = x`}, func(c command) error { *c.path, (*c.args)[0] = "/bin/sh", "x"; return c.run() }},
	}
}

// streamCases are about standard streams and signals.
func streamCases() []execCase {
	return []execCase{
		{"source fails", shell("cat"), func(c command) error { *c.stdin = broken{}; return c.run() }},
		{"source and status fail", shell("cat; exit 3"), func(c command) error { *c.stdin = broken{}; return c.run() }},
		{"writer fails", shell("echo x"), func(c command) error { *c.stdout = broken{}; return c.run() }},
		{"writer and status fail", shell("echo x; exit 3"), func(c command) error { *c.stdout = broken{}; return c.run() }},
		{"write after close", shell("cat"), func(c command) error {
			w, _ := c.stdinPipe()
			_ = c.start()
			w.Close()
			_, err := w.Write([]byte("x"))
			_ = c.wait()
			return err
		}},
		{"close twice", shell("cat"), func(c command) error {
			w, _ := c.stdinPipe()
			_ = c.start()
			w.Close()
			err := w.Close()
			_ = c.wait()
			return err
		}},
		{"write to who reads no more", shell("exec <&-; sleep 1"), func(c command) error {
			w, _ := c.stdinPipe()
			_ = c.start()
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 1<<16))
			}
			_ = c.wait()
			return err
		}},
		{"read after wait", shell("true"), func(c command) error {
			r, _ := c.stdoutPipe()
			_ = c.start()
			_ = c.wait()
			_, err := r.Read(make([]byte, 1))
			return err
		}},
		{"signal after the end", shell("true"), func(c command) error { _ = c.run(); return c.signal(syscall.SIGTERM) }},
		{"kill", shell("sleep 100"), func(c command) error { _ = c.start(); _ = c.signal(os.Kill); return c.wait() }},
	}
}

// TestBesideExec runs each case by os/exec and in a VM: what a caller can find in the errors is the same.
func TestBesideExec(t *testing.T) {
	vm := processVM(t)
	for _, test := range append(startCases(t), streamCases()...) {
		t.Run(test.name, func(t *testing.T) {
			var results []string
			for _, command := range []maker{execCommand, vmCommand(vm)} {
				c := command(t.Context(), test.args)
				err := error(nil)
				if test.do == nil {
					err = c.run()
				} else {
					err = test.do(c)
				}
				results = append(results, found(err, c.isExit))
			}
			if results[0] != results[1] {
				t.Errorf("os/exec: %s; vmtest: %s", results[0], results[1])
			}
		})
	}
}

// TestBesideExecCancel: how a context ends commands. vmtest's errors wrap the context's cause besides.
func TestBesideExecCancel(t *testing.T) {
	vm := processVM(t)
	const obey = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
	for _, command := range []maker{execCommand, vmCommand(vm)} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errCause)
		defer cancel()
		c := command(ctx, shell(obey))
		*c.cancel = func() error { _ = c.signal(syscall.SIGTERM); return os.ErrProcessDone }
		if err := c.run(); err != nil {
			t.Errorf("a command that was done when it was canceled: %v", err)
		}
		if err := command(ctx, shell("true")).run(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that had ended: %v", err)
		}
		again, end := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errCause)
		defer end()
		c = command(again, shell(obey))
		*c.cancel = func() error { return c.signal(syscall.SIGTERM) }
		if err := c.run(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("a command that has obeyed: %v", err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errCause)
	defer cancel()
	err := vm.Command(ctx, "sleep", "100").Run()
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errCause) || errors.Is(err, context.Canceled) {
		t.Errorf("a killed command: %v", err)
	}
}

// TestBesideNet: a refused connection, and one that was closed, as with package net.
func TestBesideNet(t *testing.T) {
	vm := processVM(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	dialers := []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", address) },
		func() (net.Conn, error) { return vm.Dial(t.Context(), "tcp", address) },
	}
	var results [2]string
	for i, dial := range dialers {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		halfErr := conn.(interface{ CloseWrite() error }).CloseWrite()
		_, half := conn.Write([]byte("x"))
		conn.Close()
		_, write := conn.Write([]byte("x"))
		_, empty := conn.Write(nil)
		_, read := conn.Read(make([]byte, 1))
		results[i] = fmt.Sprintf("%v; %s; %s; %s; %s", halfErr, found(half, nil), found(write, nil), found(empty, nil), found(read, nil))
	}
	listener.Close()
	for i, dial := range dialers {
		_, err := dial()
		results[i] += "; " + found(err, nil)
	}
	if results[0] != results[1] {
		t.Errorf("net: %s\nvmtest: %s", results[0], results[1])
	}
}
