package testrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

// EnvGuest tells a test binary that it runs in a guest, and what it is there for: GuestAll, or a test's name.
const EnvGuest = "STILE_TEST_GUEST"

// GuestAll is EnvGuest's value for a binary of which all tests run in the guest.
const GuestAll = "all"

// Scratch is a guest's folder for temporary files, a file system of its own in memory.
const Scratch = "/run/stile/tmp"

// Command is a test binary to run.
type Command struct {
	Path string   // absolute
	Args []string // without the binary
	Dir  string   // absolute, the package's folder as a rule
	Env  []string // beside this process's environment, and winning over it
	// Carries tells which variables of this process's environment the binary gets; nil is all.
	Carries func(name string) bool

	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals are passed on while it runs. The caller closes the channel once Run has returned.
	Signals <-chan os.Signal
}

const (
	// stuckGrace is how long a test binary may go on after its own -test.timeout before its guest counts as stuck.
	stuckGrace = 30 * time.Second
	// pullLimit bounds how long each of a binary's files may take to come back.
	pullLimit = 2 * time.Minute
	// maxFile bounds a profile, in bytes.
	maxFile = 1 << 30
)

// StuckError says that a test binary did not end at its own timeout.
type StuckError struct{ Timeout time.Duration }

func (e *StuckError) Error() string {
	return fmt.Sprintf("the test binary went on %v after its -timeout of %v: the guest hangs or is starved", stuckGrace, e.Timeout)
}

// Run runs the binary, and brings back what it wrote, whatever its status.
func Run(ctx context.Context, s *session.Session, c *Command) (session.Status, error) {
	flags := ParseFlags(c.Args)
	if flags.Fuzzes() {
		return session.Status{}, ErrFuzz
	}
	started := time.Now()
	status, err := run(ctx, s, c, flags)
	if err != nil {
		return status, err
	}
	return status, c.pull(ctx, s, flags, started)
}

func run(ctx context.Context, s *session.Session, c *Command, flags Flags) (session.Status, error) {
	if limit := flags.Timeout(); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit+stuckGrace, &StuckError{limit})
		defer cancel()
	}
	p, err := s.Start(ctx, &session.Cmd{
		Args: append([]string{c.Path}, c.Args...), Env: c.environment(), Dir: c.Dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
	})
	if err != nil {
		return session.Status{}, err
	}
	go forward(p, c.Signals)
	return p.Wait()
}

func forward(p *session.Process, signals <-chan os.Signal) {
	for {
		select {
		case <-p.Done():
			return
		case received, open := <-signals:
			if !open {
				return
			}
			if sig, ok := received.(syscall.Signal); ok {
				_ = p.Signal(sig) // fails when the agent is lost, which Wait reports
			}
		}
	}
}

// private are variables that say something about this process or this host alone.
var private = []string{
	"TMPDIR", "STILE_KEPT", "STILE_NESTED", "STILE_WORKER", "STILE_IMAGES", EnvGuest, agentproto.EnvPack, agentproto.EnvPackSince,
}

func (c *Command) environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name != "" && !slices.Contains(private, name) && (c.Carries == nil || c.Carries(name)) {
			env = append(env, kv)
		}
	}
	return append(append(env, "TMPDIR="+Scratch, "PWD="+c.Dir), c.Env...)
}

// pull brings back what the binary wrote. A file that it did not write is not there to come: it says itself why.
func (c *Command) pull(ctx context.Context, s *session.Session, flags Flags, since time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pullLimit, errors.New("the test binary's files did not come back in time"))
	defer cancel()
	// Its clock is behind this one by what the message that set it took.
	const drift = 10 * time.Second
	var faults []error
	for _, path := range flags.Files(c.Dir) {
		faults = append(faults, pullFile(ctx, s, path))
	}
	for _, dir := range append(flags.Folders(c.Dir), coverDir()...) {
		faults = append(faults, s.PullTree(ctx, session.Tree{From: dir, To: dir, Since: since.Add(-drift)}))
	}
	return errors.Join(faults...)
}

// coverDir is where a program that was built with -cover writes, if it is set.
func coverDir() []string {
	dir := os.Getenv("GOCOVERDIR")
	if dir == "" {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil
	}
	return []string{dir}
}

func pullFile(ctx context.Context, s *session.Session, path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".stile-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = s.Pull(ctx, path, &bounded{f, maxFile})
	var refused *agentproto.Error
	if errors.As(err, &refused) && refused.Kind == agentproto.NotFound {
		f.Close()
		return nil // the binary did not come so far
	}
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// bounded refuses more than left bytes.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("a file of more than %d bytes", int64(maxFile))
	}
	return b.w.Write(p)
}
