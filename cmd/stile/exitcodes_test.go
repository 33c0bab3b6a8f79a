package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
)

func TestBisectStatus(t *testing.T) {
	noKernel := fmt.Errorf("boot: %w", &guest.NoKernelError{Err: errors.New("absent")})
	for _, test := range []struct {
		reason string
		status int
		err    error
		want   int
	}{
		{"exit", 0, nil, 0},
		{"exit", 1, nil, 1},
		{"exit", 124, nil, 124},
		{"exit", 125, nil, 1}, // a command's own
		{"exit", 139, nil, 1}, // a shell's whose command was killed
		{"signal", 139, nil, 1},
		{"died", 122, nil, 122},
		{"out-of-memory", 122, nil, 122},
		{"timeout", 124, nil, 124},
		{"boot-timeout", 124, nil, 124},
		{"boot-stalled", 124, nil, 124},
		{"poweroff", 0, nil, 0},
		{"debug-exit", 255, nil, 1},
		{"killed", 130, nil, 130},
		{"killed", 137, nil, 137},
		{"not-started", 127, nil, 128},
		{"setup", 125, errors.New("no KVM"), 128},
		{"setup", 125, noKernel, 125},
	} {
		if got := bisectStatus(guest.Report{Reason: test.reason, Status: test.status}, test.err); got != test.want {
			t.Errorf("%s %d (%v): %d, want %d", test.reason, test.status, test.err, got, test.want)
		}
	}
}

// TestBisectCommandLine needs no guest: what ends before one boots.
func TestBisectCommandLine(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args string
		want int
	}{
		{"--exit-codes bisect --memmory 1G -- true", 128},
		{"--exit-codes=bisect --memory 1 -- true", 128},
		{"--exit-codes bisect -k " + dir + "/absent/vmlinuz -- true", 128},
		{"--exit-codes bisect -k " + dir + " -- true", 125}, // a tree without a kernel
		{"--exit-codes bisect -k " + dir + "/vmlinuz -- true", 125},
		{"--exit-codes bisect --on nowhere -k " + dir + "/vmlinuz -- true", 128}, // the command line has another fault
		{"--exit-codes bisct -- true", 125},
		{"--memory 1 -- true --exit-codes bisect", 125},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append([]string{"run"}, strings.Fields(test.args)...)...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != test.want {
			t.Errorf("stile run %s: %d, want %d: %s", test.args, got, test.want, out)
		}
	}
}

// TestBisect has git find the commit at which a guest's command fails first, among some without a kernel and some that kill the command.
func TestBisect(t *testing.T) {
	needGuests(t)
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	git("init", "-q", ".")
	// The middle is skipped, what is bad is killed by a signal.
	kernels := []string{"default", "default", "default", "./unbuilt", "default", "default", "default"}
	commands := []string{"true", "true", "true", "true", "true", "kill -SEGV $$", "exit 7"}
	for i := range kernels {
		for name, text := range map[string]string{"kernel": kernels[i], "test.sh": commands[i]} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		git("add", ".")
		git("commit", "-q", "--allow-empty", "-m", fmt.Sprintf("change %d", i))
	}
	git("bisect", "start", "HEAD", "HEAD~6")
	out := git("bisect", "run", "sh", "-c", `exec "$0" run --exit-codes bisect -k "$(cat kernel)" -- sh test.sh`, filepath.Join(tools, "stile"))
	if first := git("log", "-1", "--format=%s", "refs/bisect/bad"); first != "change 5\n" || !strings.Contains(out, "is the first bad commit") {
		t.Errorf("the first bad commit is %s%s", first, out)
	}
	if log := git("bisect", "log"); strings.Count(log, "# skip:") != 1 {
		t.Errorf("%s", log)
	}
}
