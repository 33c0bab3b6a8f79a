package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Cmd is a command to run in the guest.
type Cmd struct {
	// Args is the command and its arguments. A command without a slash is looked up in
	// the guest's PATH. No shell is involved.
	Args []string
	// Path is the program where it is another than Args[0].
	Path string
	// Env is added to the environment that Setup gave, as KEY=VALUE.
	Env []string
	// Dir is the working directory, "/" when empty.
	Dir string
	// User runs the command as somebody else than root.
	User *agentproto.User

	// Stdin is the command's standard input, /dev/null when nil. A Read that never
	// returns doesn't keep Wait: its goroutine ends when the Read does. What the command does not read of a file stays
	// unread (its offset), as does what is in a pipe until the command has read its first 4 KiB. Any other reader is read ahead.
	Stdin io.Reader
	// Stdout and Stderr take the command's output, /dev/null when nil. When they are the same writer, or files that are
	// one (a pipe, a terminal, an open file), the command has one pipe for both, which keeps their order, and one
	// goroutine writes.
	Stdout, Stderr io.Writer

	// TTY gives the command a terminal of this size. Stdin and Stdout speak to it, Stderr stays unused.
	TTY *agentproto.Winsize

	// WaitDelay bounds how long Wait goes on after the context's end: a killed
	// command's status and output may still come. 0 means DefaultWaitDelay.
	WaitDelay time.Duration
}

// DefaultWaitDelay is Cmd's default WaitDelay.
const DefaultWaitDelay = 5 * time.Second

// StartError says that the guest could not start a command.
type StartError struct {
	// Name is the command.
	Name string
	// Err is the agent's reason.
	Err *agentproto.Error
}

func (e *StartError) Error() string { return fmt.Sprintf("start in the guest: %v", e.Err) }

// Unwrap returns the agent's reason.
func (e *StartError) Unwrap() error { return e.Err }

// As has errors.Is and errors.As find the *exec.Error of a command that is not in the guest's PATH.
func (e *StartError) As(target any) bool {
	lookup, ok := target.(**exec.Error)
	if !ok || !e.notFound() {
		return false
	}
	*lookup = &exec.Error{Name: e.Name, Err: exec.ErrNotFound}
	return true
}

// Is has errors.Is find exec.ErrNotFound where a command is not in the guest's PATH.
func (e *StartError) Is(target error) bool { return target == exec.ErrNotFound && e.notFound() }

func (e *StartError) notFound() bool { return e.Err.Kind == agentproto.NotFound && e.Err.Errno == 0 }

// ExitCode returns what a shell would exit with: 127 not found, 126 not executable, 125 otherwise.
func (e *StartError) ExitCode() int { return e.Err.ExitCode() }

// Start starts a command. When ctx ends, the command is killed.
// A command that can't be started is a *StartError.
func (s *Session) Start(ctx context.Context, cmd *Cmd) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if len(cmd.Args) == 0 {
		return nil, errors.New("start: a command needs a name")
	}
	p, err := await(ctx, func() (*Process, error) { return s.start(cmd) }, (*Process).release)
	var refused *agentproto.Error
	if errors.Is(err, syscall.E2BIG) && !errors.As(err, &refused) { // it did not come as far as the guest
		err = &agentproto.Error{Kind: agentproto.NotExecutable, Message: err.Error(), Errno: syscall.E2BIG, Op: "fork/exec", Path: cmd.Args[0]}
	}
	if errors.As(err, &refused) {
		return nil, &StartError{Name: cmd.Args[0], Err: refused}
	}
	if err != nil {
		return nil, fmt.Errorf("start %q in the guest: %w", cmd.Args[0], err)
	}
	p.run(ctx, cmd)
	return p, nil
}

// start opens the streams and waits until the agent says that the command runs.
func (s *Session) start(cmd *Cmd) (*Process, error) {
	exec := &agentproto.Exec{
		ID: s.lastID.Add(1), Args: cmd.Args, Path: cmd.Path, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User,
		Streams: cmd.streams(), TTY: cmd.TTY, Umask: umask(),
	}
	p := &Process{session: s, exited: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}), stdio: make(map[agentproto.Stream]*yamux.Stream)}
	if err := p.open(exec); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (c *Cmd) streams() []agentproto.Stream {
	if c.TTY != nil {
		return []agentproto.Stream{agentproto.StreamTTY}
	}
	var streams []agentproto.Stream
	if c.Stdin != nil {
		streams = append(streams, agentproto.Stdin)
	}
	if c.Stdout != nil && sameOutput(c.Stdout, c.Stderr) {
		return append(streams, agentproto.Output)
	}
	if c.Stdout != nil {
		streams = append(streams, agentproto.Stdout)
	}
	if c.Stderr != nil {
		streams = append(streams, agentproto.Stderr)
	}
	return streams
}
