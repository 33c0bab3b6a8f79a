package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	c := *testConfig(t)
	dir := t.TempDir() // below /tmp, usually
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"outside", "image"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("seen"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Writable = []string{filepath.Join(dir, "image"), filepath.Join(dir, "folder")}
	h, err := Resume(t.Context(), &c)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	t.Logf("phases %+v", h.Phases())
	for _, tt := range []struct {
		name, script, stdin string
		stdout, stderr      string
		code                int
	}{
		{"status", `exit 7`, "", "", "", 7},
		{"stdio apart", `cat; echo err >&2`, "hi\n", "hi\n", "err\n", 0},
		{"signal", `kill -TERM $$`, "", "", "", 128 + int(syscall.SIGTERM)},
		{"another kernel", `read os name < /proc/version; echo $os; test -c /dev/kvm`, "", "Linux\n", "", 0},
		{"folder and environment", `echo $PWD $WORD; cat outside`, "", dir + " carried\nseen", "", 0},
		{"copy on write", `echo inside > outside; cat outside`, "", "inside\n", "", 0},
		{"writable file", `echo inside > image && sync image && cat image`, "", "inside\n", "", 0},
		{"writable folder", `cd folder && mkdir sub && echo made > sub/a && mv sub/a b && rmdir sub && cat b`, "", "made\n", "", 0},
		{"clock", `test $(date +%s) -ge ` + fmt.Sprint(time.Now().Unix()-1), "", "", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status, err := h.Run(t.Context(), &Options{
				Args: []string{"/bin/sh", "-c", tt.script}, Dir: dir, Env: append(os.Environ(), "WORD=carried"),
				Stdin: strings.NewReader(tt.stdin), Stdout: &stdout, Stderr: &stderr,
			})
			if err != nil {
				t.Fatal(err)
			}
			if status.ExitCode() != tt.code || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("%v, stdout %q, stderr %q; want %d, %q, %q",
					status, stdout.String(), stderr.String(), tt.code, tt.stdout, tt.stderr)
			}
		})
	}
	for name, want := range map[string]string{"outside": "seen", "image": "inside\n", "folder/b": "made\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("the host's %s became %q, %v; want %q", name, data, err, want)
		}
	}
}

func TestRunsShareAState(t *testing.T) {
	c := testConfig(t)
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() {
			var out bytes.Buffer
			status, err := Run(t.Context(), &Options{
				Config: *c, Args: []string{"/bin/sh", "-c", "echo run $0; exit $0", fmt.Sprint(i + 3)}, Stdout: &out,
			})
			if err != nil || status.Code != i+3 || out.String() != fmt.Sprintf("run %d\n", i+3) {
				t.Errorf("run %d: %v, %v, %q", i, status, err, out.String())
			}
		})
	}
	all.Wait()
}

// TestRandomNumbers: machines that are resumed from one state have nothing of what they draw in common.
func TestRandomNumbers(t *testing.T) {
	c := testConfig(t)
	const script = `cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' '; mktemp -u XXXXXXXXXXXX`
	seen := make(map[string]bool)
	for range 2 {
		var out bytes.Buffer
		status, err := Run(t.Context(), &Options{Config: *c, Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}, Stdout: &out})
		drawn := strings.Fields(out.String())
		if err != nil || status.ExitCode() != 0 || len(drawn) != 4 {
			t.Fatalf("%v, %v, %q", status, err, out.String())
		}
		for _, d := range drawn {
			if seen[d] {
				t.Errorf("%s was drawn before", d)
			}
			seen[d] = true
		}
	}
}

func TestSignalReachesTheCommand(t *testing.T) {
	c := testConfig(t)
	signals := make(chan syscall.Signal, 1)
	started := writerFunc(func([]byte) { signals <- syscall.SIGINT })
	status, err := Run(t.Context(), &Options{
		Config: *c, Args: []string{"/bin/sh", "-c", `trap "exit 42" INT; echo ready; while :; do sleep 0.1; done`},
		Stdout: started, Signals: signals,
	})
	if err != nil || status.Code != 42 {
		t.Errorf("%v, %v; want status 42", status, err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestContextEndsARun(t *testing.T) {
	c := testConfig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	_, err := Run(ctx, &Options{
		Config: *c, Args: []string{"/bin/sh", "-c", "echo ready; sleep 1000"}, Stdout: writerFunc(func([]byte) { cancel(why) }),
	})
	if !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
	if _, err := Run(ctx, &Options{Config: *c, Args: []string{"true"}}); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: %v, want %v", err, why)
	}
}

func TestMachineThatDies(t *testing.T) {
	c := testConfig(t)
	var console lockedBuffer
	c.Console = &console
	_, err := Run(t.Context(), &Options{Config: *c, Args: []string{"/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"}})
	if !errors.Is(err, errQEMUEnded) || !strings.Contains(err.Error(), "panic") {
		t.Errorf("%v, want QEMU's end and the panic's last line", err)
	}
	if !strings.Contains(console.String(), "sysrq") {
		t.Errorf("console %q has no panic", console.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestStateThatDoesNotResume looks at what the fixture met: a state that QEMU refused.
func TestStateThatDoesNotResume(t *testing.T) {
	c := testConfig(t)
	for _, want := range []string{"resume the lab: ", "can't be resumed", "building the lab"} {
		if !strings.Contains(shared.progress, want) {
			t.Errorf("progress %q doesn't say %q", shared.progress, want)
		}
	}
	store, err := OpenStore(filepath.Join(c.Dir, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	states, err := store.List()
	if err != nil || len(states) != 1 || states[0].Damage != "" {
		t.Errorf("states %+v, %v", states, err)
	}
}

func TestQEMUThatFails(t *testing.T) {
	c := testConfig(t)
	bad := *c
	bad.Dir = t.TempDir()
	q, err := openQEMU(script(t, `test "$1" != --version && { echo "cannot set up guest memory" >&2; exit 1; }; echo "QEMU emulator version 8.2.1"`))
	if err != nil {
		t.Fatal(err)
	}
	bad.QEMU = q
	_, err = Resume(t.Context(), &bad)
	if !errors.Is(err, errQEMUEnded) || !strings.Contains(err.Error(), "cannot set up guest memory") {
		t.Errorf("%v, want QEMU's words", err)
	}
	if left, _ := filepath.Glob(filepath.Join(bad.Dir, "lab", tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestQEMUWithoutSandbox(t *testing.T) {
	c := testConfig(t)
	real, err := FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	bare := *c
	bare.Dir = t.TempDir()
	bare.QEMU, err = openQEMU(script(t, `case "$1" in -sandbox) echo "-sandbox support is not enabled in this QEMU binary" >&2; exit 1;; esac; exec `+real.Path+` "$@"`))
	if err != nil {
		t.Fatal(err)
	}
	status, err := Run(t.Context(), &Options{Config: bare, Args: []string{"/bin/sh", "-c", "exit 5"}})
	if err != nil || status.Code != 5 {
		t.Errorf("%v, %v", status, err)
	}
}

// TestWrapperThatDoesNotExec: QEMU is a child of the program that was started, as with many users' scripts.
func TestWrapperThatDoesNotExec(t *testing.T) {
	c := *testConfig(t)
	real, err := FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if c.QEMU, err = openQEMU(script(t, real.Path+` "$@"`)); err != nil {
		t.Fatal(err)
	}
	h, err := Resume(t.Context(), &c) // builds, and ends a machine for that
	if err != nil {
		t.Fatal(err)
	}
	qemu := childOf(t, h.proc.child.PID())
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	awaitEnd(t, qemu)
	killParent(t, victimSpec{c.Dir, c.Image.Kernel, c.Image.Agent, c.QEMU.Path}, func(pid int) int { return childOf(t, pid) })
}

// childOf returns a descriptor of a process's only child.
func childOf(t *testing.T, pid int) (pidfd int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("the children of process %d are %q, not one", pid, text)
	}
	return openProcess(t, child)
}

func openProcess(t *testing.T, pid int) (pidfd int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Close(fd)
	})
	return fd
}

func awaitEnd(t *testing.T, pidfd int) {
	t.Helper()
	const limit = 20_000 // ms
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, limit); err != nil || n != 1 {
		t.Errorf("QEMU stays: %d, %v", n, err)
	}
}

func TestKilledParentLeavesNoQEMU(t *testing.T) {
	c := testConfig(t)
	h, err := Resume(t.Context(), c) // the state is there
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	killParent(t, victimSpec{c.Dir, c.Image.Kernel, c.Image.Agent, ""}, func(pid int) int { return openProcess(t, pid) })
}

// killParent kills a process that has resumed a machine, and waits for the end of QEMU, which find finds by the process started.
func killParent(t *testing.T, v victimSpec, find func(pid int) (pidfd int)) {
	t.Helper()
	spec, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envVictim+"="+string(spec))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		t.Fatalf("the victim started no QEMU: %v: %s (%v)", err, rest, cmd.Wait())
	}
	qemu := find(pid)
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	awaitEnd(t, qemu)
}
