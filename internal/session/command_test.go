package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "#!/bin/sh\n", 0o644)
	garbage := write("garbage", "\x00\x01\x02", 0o755)
	noLoader := write("no-loader", "#!/no/such/interpreter\n", 0o755)
	local := write("local", "#!/bin/sh\necho local\n", 0o755)

	bytesDir := filepath.Join(dir, "d\xe9\x80")
	if err := os.Mkdir(bytesDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("d\xe9\x80/p\xe9", "#!/bin/sh\necho local\n", 0o755)

	tests := []struct {
		name           string
		cmd            session.Cmd
		stdin          string
		stdout, stderr string
		status         session.Status
		startCode      int // of a StartError, 0 for none
	}{
		{name: "streams apart", cmd: session.Cmd{Args: []string{"sh", "-c", "cat; echo err >&2; exit 7"}},
			stdin: "hi\n", stdout: "hi\n", stderr: "err\n", status: session.Status{Code: 7}},
		{name: "true", cmd: session.Cmd{Args: []string{"true"}}},
		{name: "status 255", cmd: session.Cmd{Args: []string{"sh", "-c", "exit 255"}}, status: session.Status{Code: 255}},
		{name: "killed", cmd: session.Cmd{Args: []string{"sh", "-c", "kill -9 $$"}}, status: session.Status{Signal: syscall.SIGKILL}},
		{name: "environment", cmd: session.Cmd{Args: []string{"sh", "-c", "echo $A-$B"}, Env: []string{"A=1", "B=2", "A=3"}}, stdout: "3-2\n"},
		{name: "folder", cmd: session.Cmd{Args: []string{"pwd"}, Dir: dir}, stdout: dir + "\n"},
		{name: "no shell", cmd: session.Cmd{Args: []string{"echo", "$HOME", "*", "a  b"}}, stdout: "$HOME * a  b\n"},
		{name: "relative path", cmd: session.Cmd{Args: []string{"./local"}, Dir: dir}, stdout: "local\n"},
		{name: "absolute path", cmd: session.Cmd{Args: []string{local}}, stdout: "local\n"},
		{name: "own PATH", cmd: session.Cmd{Args: []string{"local"}, Env: []string{"PATH=/bin:" + dir}}, stdout: "local\n"},
		{name: "bytes that are no text", cmd: session.Cmd{Args: []string{"sh", "-c", `printf %s. "$1" "$A"; pwd`, "x", "\xff\xfeü"}, Env: []string{"A=\xe9", "LC_ALL=C"}, Dir: bytesDir},
			stdout: "\xff\xfeü.\xe9." + bytesDir + "\n"},
		{name: "program that is no text", cmd: session.Cmd{Args: []string{bytesDir + "/p\xe9"}}, stdout: "local\n"},
		{name: "leader of its session", cmd: session.Cmd{Args: []string{"sh", "-c", `set -- $(cat /proc/$$/stat); test $1 = $5 && test $1 = $6`}}},
		{name: "not found", cmd: session.Cmd{Args: []string{"no-such-command"}}, startCode: 127},
		{name: "path not found", cmd: session.Cmd{Args: []string{"/no/such"}}, startCode: 127},
		{name: "below a file", cmd: session.Cmd{Args: []string{plain + "/x"}}, startCode: 127},
		{name: "not executable", cmd: session.Cmd{Args: []string{plain}}, startCode: 126},
		{name: "not executable in PATH", cmd: session.Cmd{Args: []string{"plain"}, Env: []string{"PATH=" + dir}}, startCode: 126},
		{name: "folder as command", cmd: session.Cmd{Args: []string{dir}}, startCode: 126},
		{name: "garbage", cmd: session.Cmd{Args: []string{garbage}}, startCode: 126},
		{name: "no interpreter", cmd: session.Cmd{Args: []string{noLoader}}, startCode: 126},
		{name: "no folder", cmd: session.Cmd{Args: []string{"true"}, Dir: "/no/such"}, startCode: 125},
		{name: "file as folder", cmd: session.Cmd{Args: []string{"true"}, Dir: plain}, startCode: 125},
	}
	s := dial(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := test.cmd
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(test.stdin), &stdout, &stderr
			p, err := s.Start(testContext(t), &cmd)
			if test.startCode != 0 {
				var start *session.StartError
				if !errors.As(err, &start) || start.ExitCode() != test.startCode {
					t.Fatalf("Start: %v, want a StartError with exit code %d", err, test.startCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			status, err := p.Wait()
			if err != nil || status != test.status {
				t.Errorf("Wait: %v, %v; want %v", status, err, test.status)
			}
			if stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("stdout %q, stderr %q; want %q, %q", stdout.String(), stderr.String(), test.stdout, test.stderr)
			}
		})
	}
}

func run(t testing.TB, s *session.Session, cmd *session.Cmd) session.Status {
	t.Helper()
	p, err := s.Start(testContext(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func TestRefusesBadCommands(t *testing.T) {
	s := dial(t)
	for _, cmd := range []session.Cmd{
		{},
		{Args: []string{""}},
		{Args: []string{"echo", "a\x00b"}},
		{Args: []string{"true"}, Env: []string{"novalue"}},
		{Args: []string{"true"}, Env: []string{"=x"}},
	} {
		if _, err := s.Start(testContext(t), &cmd); err == nil {
			t.Errorf("Start(%q, %q) succeeded", cmd.Args, cmd.Env)
		}
	}
	if status := run(t, s, &session.Cmd{Args: []string{"true"}}); status.Code != 0 {
		t.Errorf("afterwards: %v", status)
	}
}

func TestPipeBothWays(t *testing.T) {
	const size = 64 << 20
	s := dial(t)
	sent, got := sha256.New(), sha256.New()
	status := run(t, s, &session.Cmd{
		Args:   []string{"cat"},
		Stdin:  io.TeeReader(random(size), sent),
		Stdout: got,
	})
	if status.Code != 0 || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%v; what came back differs from what was sent", status)
	}
}

// TestOutputBeforeExit has the pipe full when the command ends: nothing of it may be lost.
func TestOutputBeforeExit(t *testing.T) {
	s := dial(t)
	for range 20 {
		var out bytes.Buffer
		run(t, s, &session.Cmd{Args: []string{"head", "-c", "65536", "/dev/zero"}, Stdout: &out})
		if out.Len() != 65536 {
			t.Fatalf("%d bytes of 65536", out.Len())
		}
	}
}

// TestLeftover checks that a process left behind, which holds the output, keeps nobody waiting.
func TestLeftover(t *testing.T) {
	s := dial(t)
	var out bytes.Buffer
	status := run(t, s, &session.Cmd{Args: []string{"sh", "-c", "sleep 1000 & echo $!"}, Stdout: &out})
	var pid int
	if _, err := fmt.Sscan(out.String(), &pid); err != nil || status.Code != 0 {
		t.Fatalf("%v, output %q", status, out.String())
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process left behind: %v", err)
	}
}

func TestStdinNil(t *testing.T) {
	var out bytes.Buffer
	run(t, dial(t), &session.Cmd{Args: []string{"readlink", "/proc/self/fd/0"}, Stdout: &out})
	if out.String() != "/dev/null\n" {
		t.Errorf("stdin is %q", out.String())
	}
}

// TestStdinNeverEnds has a reader like a terminal's, which returns when somebody types.
func TestStdinNeverEnds(t *testing.T) {
	s := dial(t)
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() }) // before the check for leaks
	if status := run(t, s, &session.Cmd{Args: []string{"sh", "-c", "exit 3"}, Stdin: r}); status.Code != 3 {
		t.Error(status)
	}
}

// TestStdinUnwanted has a command that closes its stdin: the host must stop to send.
func TestStdinUnwanted(t *testing.T) {
	s := dial(t)
	sent := &counter{r: random(1 << 40)}
	status := run(t, s, &session.Cmd{Args: []string{"head", "-c", "1"}, Stdin: sent, Stdout: io.Discard})
	if status.Code != 0 {
		t.Error(status)
	}
}

type counter struct{ r io.Reader }

func (c *counter) Read(p []byte) (int, error) { return c.r.Read(p) }

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }

// TestStdoutUnwanted has a writer that fails: the command must meet a broken pipe.
func TestStdoutUnwanted(t *testing.T) {
	p, err := dial(t).Start(testContext(t), &session.Cmd{Args: []string{"yes"}, Stdout: failing{}})
	if err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait()
	if status.Signal != syscall.SIGPIPE || err == nil || err.Error() != "no room" {
		t.Errorf("%v, %v; want SIGPIPE and the writer's error", status, err)
	}
}

// TestOneOutput: where both streams go to one place, what is written to them keeps its order there, and each arrives.
func TestOneOutput(t *testing.T) {
	s := dial(t)
	const script = "for i in 1 3 5 7 9 11 13; do echo $i; echo $((i+1)) >&2; done"
	const want = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n"
	file := func(t *testing.T, path string, flags int) *os.File {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	duplicate := func(t *testing.T, f *os.File) *os.File {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		d := os.NewFile(uintptr(fd), f.Name())
		t.Cleanup(func() { d.Close() })
		return d
	}
	path := filepath.Join(t.TempDir(), "out")
	for _, test := range []struct {
		name string
		open func(t *testing.T) (stdout, stderr *os.File)
		want string
	}{
		{"the same file", func(t *testing.T) (a, b *os.File) {
			a = file(t, path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
			return a, a
		}, want},
		{"a duplicate", func(t *testing.T) (a, b *os.File) {
			a = file(t, path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
			return a, duplicate(t, a)
		}, want},
		{"both append", func(t *testing.T) (a, b *os.File) {
			return file(t, path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND), file(t, path, os.O_WRONLY|os.O_APPEND)
		}, want},
		{"two offsets", func(t *testing.T) (a, b *os.File) { // each overwrites the other, as for a local command
			a, b = file(t, path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC), file(t, path, os.O_WRONLY)
			if _, err := b.Seek(100, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			return a, b
		}, "1\n3\n5\n7\n9\n11\n13\n" + strings.Repeat("\x00", 84) + "2\n4\n6\n8\n10\n12\n14\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 10 {
				stdout, stderr := test.open(t)
				run(t, s, &session.Cmd{Args: []string{"sh", "-c", script}, Stdout: stdout, Stderr: stderr})
				if out, err := os.ReadFile(path); err != nil || string(out) != test.want {
					t.Fatalf("%q, %v; want %q", out, err, test.want)
				}
			}
		})
	}
	t.Run("pipe", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		run(t, s, &session.Cmd{Args: []string{"sh", "-c", script}, Stdout: w, Stderr: duplicate(t, w)})
		w.Close()
		out := make([]byte, 2*len(want))
		if n, err := r.Read(out); err != nil || string(out[:n]) != want {
			t.Errorf("%q, %v", out[:n], err)
		}
	})
	t.Run("writer", func(t *testing.T) {
		for range 10 {
			var out bytes.Buffer // the race detector watches
			run(t, s, &session.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out})
			if out.String() != want {
				t.Fatalf("%q", out.String())
			}
		}
	})
	t.Run("writers that can't be compared", func(t *testing.T) {
		var out strings.Builder
		w := writerFunc(func(p []byte) (int, error) { return out.Write(p) })
		run(t, s, &session.Cmd{Args: []string{"sh", "-c", "echo one; sleep 0.1; exec >&-; echo two >&2"}, Stdout: w, Stderr: io.Discard})
		if out.String() != "one\n" {
			t.Errorf("%q", out.String())
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConcurrentCommands(t *testing.T) {
	s := dial(t)
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			var out bytes.Buffer
			p, err := s.Start(testContext(t), &session.Cmd{
				Args: []string{"sh", "-c", fmt.Sprintf("cat; exit %d", i)}, Stdin: strings.NewReader(fmt.Sprint(i)), Stdout: &out, Stderr: io.Discard,
			})
			if err != nil {
				t.Error(err)
				return
			}
			if status, err := p.Wait(); err != nil || status.Code != i || out.String() != fmt.Sprint(i) {
				t.Errorf("command %d: %v, %v, %q", i, status, err, out.String())
			}
		})
	}
	group.Wait()
}

// lines hands out what is written, line by line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestSignal(t *testing.T) {
	s := dial(t)
	out := make(lines, 10)
	p, err := s.Start(testContext(t), &session.Cmd{
		Args: []string{"sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done"}, Stdout: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-out
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	status, err := p.Wait()
	if err != nil || status.Code != 9 || <-out != "got\n" {
		t.Errorf("%v, %v", status, err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
	if err := p.Signal(1000); err == nil {
		t.Error("signal 1000 was accepted")
	}
}

// TestSignalReachesGroup kills a shell's child too.
func TestSignalReachesGroup(t *testing.T) {
	out := make(lines, 1)
	p, err := dial(t).Start(testContext(t), &session.Cmd{Args: []string{"sh", "-c", "sleep 1000 & echo $!; wait"}, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	var child int
	fmt.Sscan(<-out, &child)
	p.Kill()
	if status, err := p.Wait(); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("%v, %v", status, err)
	}
	awaitDeath(t, child)
}

// awaitDeath waits until a process that is not our child runs no more.
func awaitDeath(t testing.TB, pid int) {
	t.Helper()
	ctx := testContext(t)
	for ctx.Err() == nil {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("process %d still runs", pid)
}

func TestContextKills(t *testing.T) {
	s := dial(t)
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := s.Start(ctx, &session.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	status, err := p.Wait()
	if status.Signal != syscall.SIGKILL || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", status, err)
	}
	if _, err := s.Start(ctx, &session.Cmd{Args: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a context that has ended: %v", err)
	}
}

func TestTTY(t *testing.T) {
	s := dial(t)
	out := make(lines, 100)
	r, w := io.Pipe()
	p, err := s.Start(testContext(t), &session.Cmd{
		Args: []string{"sh", "-c", `test -t 0 && test -t 1 && test -t 2 && stty size
			until test "$(stty size)" = "50 100"; do sleep 0.01; done; echo resized
			read x; echo said $x; cat; exit 4`},
		Stdin: r, Stdout: out, TTY: &agentproto.Winsize{Rows: 33, Cols: 111},
	})
	if err != nil {
		t.Fatal(err)
	}
	var all string
	await := func(want string) {
		t.Helper()
		for !strings.Contains(all, want) {
			select {
			case more := <-out:
				all += more
			case <-testContext(t).Done():
				t.Fatalf("no %q in %q", want, all)
			}
		}
	}
	await("33 111")
	if err := p.Resize(agentproto.Winsize{Rows: 50, Cols: 100}); err != nil {
		t.Error(err)
	}
	await("resized")
	io.WriteString(w, "hello\n")
	await("said hello")
	w.Close() // cat sees the end of file
	status, err := p.Wait()
	if err != nil || status.Code != 4 {
		t.Errorf("%v, %v", status, err)
	}
}

func BenchmarkPipe(b *testing.B) {
	s := dial(b)
	b.SetBytes(64 << 20)
	for b.Loop() {
		run(b, s, &session.Cmd{Args: []string{"head", "-c", "67108864", "/dev/zero"}, Stdout: io.Discard})
	}
}

func BenchmarkCommand(b *testing.B) {
	s := dial(b)
	b.ReportAllocs()
	for b.Loop() {
		run(b, s, &session.Cmd{Args: []string{"true"}, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	}
}
