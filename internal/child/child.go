package child

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/limit"
)

// drainTime is how long an ended child's output is waited for where its Cmd doesn't say.
const drainTime = 5 * time.Second

// Child is a running program. Its methods may be called concurrently.
type Child struct {
	cmd   *exec.Cmd
	leash *leash
	done  chan struct{} // closed after err is set
	err   error

	mu     sync.Mutex
	reaped bool
}

// Start starts cmd. Where cmd has a context, its end kills the group. cmd must not be used further, but for its
// ProcessState once Done is closed.
func Start(cmd *exec.Cmd) (*Child, error) {
	if cmd.Cancel == nil {
		return start(&Child{cmd: cmd})
	}
	return StartWithCancel(cmd, syscall.SIGKILL)
}

// StartWithCancel is Start for a context whose end signals the group, which has cmd.WaitDelay to follow before it is killed.
func StartWithCancel(cmd *exec.Cmd, sig syscall.Signal) (*Child, error) {
	c := &Child{cmd: cmd}
	cmd.Cancel = func() error { return c.Signal(sig) }
	return start(c)
}

func start(c *Child) (*Child, error) {
	if err := c.start(); err != nil {
		return nil, err
	}
	return c, nil
}

// start starts the command and waits for it, both on one thread that lives as long: the kernel sends the parent death
// signal when the *thread* ends that made the child.
func (c *Child) start() error {
	leash, err := newLeash()
	if err != nil {
		return err
	}
	c.leash, c.done = leash, make(chan struct{})
	if c.cmd.SysProcAttr == nil {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.cmd.SysProcAttr.Setpgid, c.cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if c.cmd.WaitDelay == 0 {
		c.cmd.WaitDelay = drainTime
	}
	c.cmd.ExtraFiles = append(c.cmd.ExtraFiles[:len(c.cmd.ExtraFiles):len(c.cmd.ExtraFiles)], leash.read)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		if err == nil {
			leash.tie(c.cmd.Process.Pid)
		}
		leash.read.Close() // the group has it
		started <- err
		if err != nil {
			leash.cut()
			return
		}
		c.wait()
	}()
	return limit.Explain(<-started)
}

// wait waits for the child, and ends what it leaves in its group.
func (c *Child) wait() {
	err := c.cmd.Wait()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	c.leash.cut()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has succeeded; another process holds its output
	}
	c.err = err
	close(c.done)
}

// PID returns the number of the child and its group.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the child's end and returns its error as exec.Cmd.Wait does.
func (c *Child) Wait() error {
	<-c.done
	return c.err
}

// Signal signals the group. It returns os.ErrProcessDone when the child has ended.
func (c *Child) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped || c.cmd.Process == nil {
		return os.ErrProcessDone
	}
	if sig == syscall.SIGKILL {
		c.leash.cut()
	}
	return syscall.Kill(-c.cmd.Process.Pid, sig)
}

// Kill ends the group and waits for the child.
func (c *Child) Kill() {
	_ = c.Signal(syscall.SIGKILL) // fails only when it has ended
	<-c.done
}

// Run starts cmd and waits for it.
func Run(cmd *exec.Cmd) error {
	c, err := Start(cmd)
	if err != nil {
		return err
	}
	return c.Wait()
}

// RunWithCancel is Run for a context whose end signals the group; see StartWithCancel.
func RunWithCancel(cmd *exec.Cmd, sig syscall.Signal) error {
	c, err := StartWithCancel(cmd, sig)
	if err != nil {
		return err
	}
	return c.Wait()
}

// Output is Run with what cmd prints. What it says on stderr is in an exec.ExitError, as by exec.Cmd.Output.
func Output(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	stderr := &tail{limit: stderrLimit}
	cmd.Stdout = &out
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	err := Run(cmd)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		exit.Stderr = stderr.buf
	}
	return out.Bytes(), err
}

// CombinedOutput is Run with what cmd prints on stdout and stderr.
func CombinedOutput(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := Run(cmd)
	return out.Bytes(), err
}

// stderrLimit bounds what Output keeps of stderr, in bytes.
const stderrLimit = 64 << 10

// tail keeps the last bytes that were written to it.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}
