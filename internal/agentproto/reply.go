package agentproto

import (
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// Reply is the agent's answer. With no field set it says that the request was done.
type Reply struct {
	Error   *Error   `json:"error,omitempty"`
	Started *Started `json:"started,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
	File    *File    `json:"file,omitempty"`
}

// ReadReply reads a Reply and checks its numbers. A Reply with an Error is returned as
// that error.
func ReadReply(r io.Reader) (*Reply, error) {
	reply := new(Reply)
	if err := ReadMessage(r, MaxReply, reply); err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	if e := reply.Exit; e != nil && (e.Code < 0 || e.Code > 255 || e.Signal < 0 || e.Signal > 64 || e.Read < 0) {
		return nil, fmt.Errorf("impossible exit status: code %d, signal %d, %d bytes read", e.Code, e.Signal, e.Read)
	}
	if f := reply.File; f != nil && f.Size < 0 {
		return nil, fmt.Errorf("impossible file size %d", f.Size)
	}
	return reply, nil
}

// Started says that the command runs.
type Started struct {
	// PID is the command's process number in the guest.
	PID int `json:"pid"`
}

// Exit says how a command ended: by exit status Code, or, when Signal is not 0, by that signal.
// Everything that the command wrote to its standard streams was sent before, unless it is Pending.
type Exit struct {
	// Pending: the host has not taken all output yet, and another Exit follows once it has.
	Pending    bool `json:"pending,omitempty"`
	Code       int  `json:"code"`
	Signal     int  `json:"signal,omitempty"`
	CoreDumped bool `json:"core,omitempty"`
	// Read counts the bytes that the command has taken from its standard input, where that is no terminal.
	Read int64 `json:"read,omitempty"`
}

// FirstInput is how many bytes of a command's standard input the host may send before it is known that the command reads: what fits
// into the smallest pipe, of one page.
const FirstInput = 4096

// File describes a file whose bytes follow.
type File struct {
	// Size counts bytes, as the file system has it. Those that show the kernel do not know.
	Size int64 `json:"size"`
	// Mode holds the permission bits.
	Mode uint32 `json:"mode"`
}

// ErrorKind classifies what went wrong in the guest.
type ErrorKind string

// The kinds of error.
const (
	// NotFound: no such command, or no such file.
	NotFound ErrorKind = "not-found"
	// NotExecutable: the command exists and can't be executed.
	NotExecutable ErrorKind = "not-executable"
	// Failed: anything else; the message says what.
	Failed ErrorKind = "failed"
)

// Error is a request's failure in the guest.
type Error struct {
	Kind    ErrorKind `json:"kind"`
	Message string    `json:"message"`
	// Errno is the guest's kernel's word for it, 0 where there is none.
	Errno syscall.Errno `json:"errno,omitempty"`
	// Op and Path are what was done with which file, where it was one, as in an fs.PathError.
	Op   string `json:"op,omitempty"`
	Path string `json:"path,omitempty"`
}

// maxErrno is the greatest error number of Linux.
const maxErrno = 4095

// Error returns the message, cut to a bounded length.
func (e *Error) Error() string {
	if len(e.Message) > maxText {
		return e.Message[:maxText]
	}
	return e.Message
}

// Unwrap returns the error that the same thing would have been here, an *fs.PathError or a syscall.Errno, nil for none: errors.Is and
// errors.As find what they would find without a guest.
func (e *Error) Unwrap() error {
	switch {
	case e.Errno == 0 || e.Errno > maxErrno:
		return nil
	case e.Op != "":
		return &fs.PathError{Op: e.Op, Path: e.Path, Err: e.Errno}
	}
	return e.Errno
}

// ExitCode returns what a shell would exit with: 127 for a command not found,
// 126 for one that is not executable, 125 for every other failure.
func (e *Error) ExitCode() int {
	switch e.Kind {
	case NotFound:
		return 127
	case NotExecutable:
		return 126
	}
	return 125
}
