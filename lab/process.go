package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/limit"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/internal/spool"
	"github.com/stile-vmm/stile/lab/internal/qmp"
)

const (
	// logLimit bounds what is kept of QEMU's and of the console's output, in bytes.
	logLimit = 64 << 10
	// drainTime is how long an ended QEMU's output is waited for.
	drainTime = time.Second
	// endTime is how long QEMU may take to end once its channels have: the kernel frees the machine's memory.
	endTime = 15 * time.Second
)

// errQEMUEnded is in every error that comes from QEMU's end.
var errQEMUEnded = errors.New("QEMU ended")

// process is a running QEMU and our ends of its channels. Its methods may be called concurrently.
type process struct {
	qmp   *qmp.Client
	agent net.Conn // the virtio port of L1's agent

	log     *tail // what QEMU said
	console *tail // what L1's kernel said

	child   *child.Child
	output  net.Conn       // L1's console
	drained sync.WaitGroup // its reader
}

// The descriptors that QEMU inherits after the standard ones.
const (
	qmpFD = 3 + iota
	agentFD
	consoleFD
	firstMediaFD
)

// start runs QEMU. console, if not nil, gets a copy of L1's console;
// onEvent gets QMP's events.
func (q *QEMU) start(m *Machine, b backend, extra []string, console io.Writer, onEvent func(qmp.Event)) (*process, error) {
	b.qmp, b.agent, b.console = qmpFD, agentFD, consoleFD
	p := &process{log: newTail(logLimit), console: newTail(logLimit)}

	var ours []net.Conn
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	for _, name := range []string{"qmp", "agent", "console"} {
		conn, file, err := socketPair(name)
		if err != nil {
			closeAll(ours)
			return nil, err
		}
		ours, theirs = append(ours, conn), append(theirs, file)
	}

	cmd := exec.Command(q.Path, append(m.args(&b), extra...)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.ExtraFiles = append(theirs[:len(theirs):len(theirs)], b.media.files...)
	cmd.WaitDelay = drainTime
	cmd.Env = append(os.Environ(), "LC_ALL=C") // limits are known by what QEMU says
	var err error
	if p.child, err = child.Start(cmd); err != nil {
		closeAll(ours)
		return nil, fmt.Errorf("start %s: %w", q.Path, err)
	}
	p.agent, p.output = ours[1], ours[2]
	p.drained.Go(func() { p.readConsole(console) })
	p.qmp = qmp.New(ours[0], onEvent)
	return p, nil
}

// readConsole reads until QEMU has ended: a full socket would stop L1.
func (p *process) readConsole(copyTo io.Writer) {
	defer p.output.Close()
	var w io.Writer = p.console
	if copyTo != nil {
		copies := spool.New(copyTo)
		defer copies.Close()
		w = io.MultiWriter(p.console, copies)
	}
	_, _ = io.Copy(struct{ io.Writer }{w}, p.output) // its end is QEMU's
}

// bind returns a context that ends with ctx, or with QEMU and why it ended.
func (p *process) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.child.Done():
			cancel(p.failure())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// failure describes QEMU's end: its status and its last words, or L1's.
func (p *process) failure() error {
	state := "with status 0" // -no-reboot: L1 has powered off or panicked
	err := p.child.Wait()
	if err != nil {
		state = "with " + err.Error()
	}
	if signalOf(err) == syscall.SIGBUS {
		state += ": is the cache's disk full, or its file cut short?"
	}
	return p.limited(err, fmt.Errorf("%w %s%s", errQEMUEnded, state, p.lastWords()))
}

// limited adds to why the limit that is behind err, if one is: QEMU goes on without some of what it can't have.
func (p *process) limited(err, why error) error {
	if err == nil {
		return why
	}
	found := limit.Signalled(signalOf(err))
	if found == "" {
		found = limit.Said(p.log.lines(logLimit)...)
	}
	if found == "" {
		return why
	}
	return &limit.Error{Err: why, Limit: found}
}

// signalOf returns the signal that ended a program, or the one that a shell reports of what it ran; 0 for none.
func signalOf(err error) syscall.Signal {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	const shell = 128
	switch status, ok := exit.Sys().(syscall.WaitStatus); {
	case ok && status.Signaled():
		return status.Signal()
	case ok && status.ExitStatus() > shell:
		return syscall.Signal(status.ExitStatus() - shell)
	}
	return 0
}

// explain finds the reason behind an error met while talking to QEMU or to what runs in it: ctx's end,
// QEMU's end, or err itself with the last words of both.
func (p *process) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !lost(err):
		return p.limited(err, fmt.Errorf("%w%s", err, p.lastWords()))
	}
	// The end of a channel is seen before the end of the process.
	select {
	case <-p.child.Done():
		p.drain()
		return fmt.Errorf("%w: %w", err, p.failure())
	case <-time.After(endTime):
		return p.limited(err, fmt.Errorf("%w%s", err, p.lastWords()))
	}
}

// lacksSandbox reports whether QEMU has ended because its build has no sandbox.
func (p *process) lacksSandbox() bool {
	select {
	case <-p.child.Done():
	default:
		return false
	}
	for _, line := range p.log.lines(logLimit) {
		if strings.Contains(line, "sandbox") || strings.Contains(line, "seccomp") {
			return p.child.Wait() != nil
		}
	}
	return false
}

// lost reports whether err says that a channel into QEMU ended.
func lost(err error) bool {
	return errors.Is(err, qmp.ErrClosed) || errors.Is(err, session.ErrAgentLost) ||
		errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// lastWords returns what QEMU and L1's console said last, for an error message.
func (p *process) lastWords() string {
	const last = 3
	var b strings.Builder
	if lines := p.log.lines(last); len(lines) > 0 {
		fmt.Fprintf(&b, "; QEMU said: %s", strings.Join(lines, " | "))
	}
	if lines := verdict(p.console.lines(logLimit), last); len(lines) > 0 {
		fmt.Fprintf(&b, "; the machine's console: %s", strings.Join(lines, " | "))
	}
	return b.String()
}

// verdict returns the lines of a console that say why the machine died, or its last n lines.
func verdict(lines []string, n int) []string {
	var why []string
	for _, line := range lines {
		if strings.Contains(line, "Kernel panic - not syncing") || strings.Contains(line, "stile-agent: ") {
			why = append(why, line)
		}
	}
	if len(why) == 0 {
		why = lines
	}
	return why[max(0, len(why)-n):]
}

// kill ends QEMU and waits until nothing of it is left. Further calls do nothing.
func (p *process) kill() {
	p.child.Kill()
	p.qmp.Close()
	p.agent.Close()
	p.drain()
}

// drain waits for the last of the console, but not for who holds its other end though QEMU has ended.
func (p *process) drain() {
	_ = p.output.SetReadDeadline(time.Now().Add(drainTime)) // fails when it was read to its end
	p.drained.Wait()
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// socketPair returns our end of a stream and the end to be inherited.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket pair for %s: %w", name, err)
	}
	return conn, theirs, nil
}
