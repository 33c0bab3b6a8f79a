package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envParent makes the test binary a process that starts the shell command in it and waits to be killed.
const envParent = "STILE_CHILD_TEST_PARENT"

func TestMain(m *testing.M) {
	if script := os.Getenv(envParent); script != "" {
		cmd := exec.Command("sh", "-c", script)
		cmd.Stdout = os.Stdout
		if err := Run(cmd); err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(m.Run())
}

// wrapper is a script that doesn't exec what it runs: it prints that one's number.
const wrapper = `sh -c 'trap "" INT TERM HUP; echo $$; while :; do sleep 100; done'; exit 3`

// grandchild is a process that is waited for by a descriptor: its number may be another's later.
type grandchild struct{ pid, fd int }

func openGrandchild(t *testing.T, line string) grandchild {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("%q is not a process number", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Close(fd)
	})
	return grandchild{pid, fd}
}

// awaitEnd waits for the end.
func (g grandchild) awaitEnd(t *testing.T) {
	t.Helper()
	const limit = 20_000 // ms
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}, limit); err != nil || n != 1 {
		t.Errorf("process %d stays: %d, %v", g.pid, n, err)
	}
}

// startWrapper starts the wrapper and returns the first line that it prints.
func startWrapper(t *testing.T, ctx context.Context) (*Child, grandchild) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	cmd := exec.CommandContext(ctx, "sh", "-c", wrapper)
	cmd.Stdout = write
	c, err := Start(cmd)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return c, openGrandchild(t, line)
}

func TestKill(t *testing.T) {
	c, g := startWrapper(t, t.Context())
	c.Kill()
	g.awaitEnd(t)
	if err := c.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to an ended child: %v", err)
	}
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, g := startWrapper(t, ctx)
	cancel()
	g.awaitEnd(t)
	if err := c.Wait(); err == nil {
		t.Error("a killed child has succeeded")
	}
}

// TestParentKilled: SIGKILL leaves this process no say.
func TestParentKilled(t *testing.T) {
	parent := exec.CommandContext(t.Context(), "/proc/self/exe")
	parent.Env = append(os.Environ(), envParent+"="+wrapper)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	g := openGrandchild(t, line)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	g.awaitEnd(t)
}

// TestLeftBehind: what a child leaves in its group ends with it, and what has left the group keeps nobody waiting.
func TestLeftBehind(t *testing.T) {
	out, err := Output(exec.CommandContext(t.Context(), "sh", "-c", `sleep 1000 >/dev/null 2>&1 & echo $!`))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d stays", pid)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `setsid sh -c 'echo $$; exec sleep 1000' & wait $!& sleep 0.2; echo said`)
	cmd.WaitDelay = 100 * time.Millisecond
	out, err = Output(cmd)
	first, rest, _ := strings.Cut(string(out), "\n")
	openGrandchild(t, first) // ends it
	if err != nil || rest != "said\n" {
		t.Errorf("%q, %v", rest, err)
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestOutput(t *testing.T) {
	out, err := Output(exec.CommandContext(t.Context(), "sh", "-c", "echo out; echo why >&2; exit 4"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 || string(exit.Stderr) != "why\n" || string(out) != "out\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = CombinedOutput(exec.Command("sh", "-c", "echo out; echo err >&2")); err != nil || string(out) != "out\nerr\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err := Run(exec.Command("/no/such/program")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
