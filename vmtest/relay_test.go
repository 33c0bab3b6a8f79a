package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/session"
)

// processVM returns a VM that is none: its agent runs commands as processes here.
func processVM(t *testing.T) *VM {
	t.Helper()
	host, guest := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- agent.Serve(guest) }()
	s, err := session.Dial(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; err != nil {
			t.Errorf("the agent: %v", err)
		}
	})
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return &VM{session: s, dir: dir, log: func() []byte { return nil }, close: s.Close}
}

// envRelayed makes the tests below run what they test, once more in a process of their own.
const envRelayed = "STILE_TEST_RELAYED"

// relayedRun runs f as Run does, in a process instead of a guest.
func relayedRun(t *testing.T, f func(t *testing.T)) {
	runWith(t, Config{}, f, func(testing.TB, Config) *VM { return processVM(t) })
}

// TestRelayed is for TestRelay: it ends in each of the ways that a test can.
func TestRelayed(t *testing.T) {
	if os.Getenv(envRelayed) == "" {
		return
	}
	t.Run("pass", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) {
			t.Log("said in the guest")
			t.Run("a/b c", func(t *testing.T) { t.Parallel(); t.Run("deep", func(t *testing.T) {}) })
			t.Run("other", func(t *testing.T) { t.Parallel() })
		})
		if InGuest() {
			t.Error("went on in the guest")
		}
	})
	t.Run("fail", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) { t.Run("sub", func(t *testing.T) { t.Fatal("broken there") }) })
	})
	t.Run("skip", func(t *testing.T) { relayedRun(t, func(t *testing.T) { t.Skip("not there") }) })
	t.Run("panic", func(t *testing.T) { relayedRun(t, func(t *testing.T) { panic("out of hand") }) })
	t.Run("exit", func(t *testing.T) { relayedRun(t, func(t *testing.T) { os.Exit(3) }) })
	t.Run("never comes", func(t *testing.T) {
		if InGuest() {
			return
		}
		relayedRun(t, func(t *testing.T) {})
	})
}

// processStart is Start with a process instead of a guest.
func processStart(t *testing.T) *VM {
	if !outside(t) {
		return absentVM()
	}
	return processVM(t)
}

// TestRelayedBodies is for TestRelayBodies: each subtest leaves its function out, if it can.
func TestRelayedBodies(t *testing.T) {
	if os.Getenv(envRelayed) == "" {
		return
	}
	t.Run("nested", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) {
			t.Run("sub", func(t *testing.T) { relayedRun(t, func(t *testing.T) { t.Fatal("ran: sub") }) })
			t.Run("parallel", func(t *testing.T) {
				t.Parallel()
				relayedRun(t, func(t *testing.T) { t.Fatal("ran: parallel") })
			})
			relayedRun(t, func(t *testing.T) { t.Log("ran: same test") })
		})
	})
	t.Run("VM", func(t *testing.T) {
		vm := processStart(t)
		relayedRun(t, func(t *testing.T) { t.Log("ran: behind a VM's start") })
		if err := vm.Command(t.Context(), "true").Run(); err != nil {
			t.Error(err)
		}
	})
	t.Run("used", func(t *testing.T) {
		if err := processStart(t).Command(t.Context(), "true").Run(); err != nil {
			t.Fatal(err)
		}
		relayedRun(t, func(t *testing.T) {})
	})
	t.Run("within", func(t *testing.T) { relayedRun(t, func(t *testing.T) { processStart(t) }) })
	t.Run("skipped", func(t *testing.T) {
		if InGuest() {
			t.Skip("not in guests")
		}
		relayedRun(t, func(t *testing.T) {})
	})
	t.Run("above", func(t *testing.T) {
		t.Run("sub", func(t *testing.T) { relayedRun(t, func(t *testing.T) { t.Log("ran: above a VM's start") }) })
		if _, err := processStart(t).Command(t.Context(), "true").Output(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRelayBodies: a function that can be run is run, and any other fails its test.
func TestRelayBodies(t *testing.T) {
	out, err := relayTests(t, "^TestRelayedBodies$")
	if err == nil {
		t.Error("the failing tests passed")
	}
	for _, want := range []string{
		"--- FAIL: TestRelayedBodies/nested ", "ran: sub", "ran: parallel", "ran: same test",
		"--- PASS: TestRelayedBodies/VM ", "ran: behind a VM's start",
		"--- FAIL: TestRelayedBodies/used ", "this code runs a second time",
		"--- FAIL: TestRelayedBodies/within ", "this test starts a VM, and runs in one",
		"--- FAIL: TestRelayedBodies/skipped ", "skipped itself in the guest before it came to this call of Run",
		"--- PASS: TestRelayedBodies/above ", "ran: above a VM's start",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// TestRelayedEnds is for TestRelayEnds.
func TestRelayedEnds(t *testing.T) {
	if os.Getenv(envRelayed) == "" {
		return
	}
	t.Run("fatal", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) { t.Fatal("the end") })
		if !InGuest() {
			t.Log("went on: fatal")
		}
	})
	t.Run("panic", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) { panic("the end") })
		if !InGuest() {
			t.Log("went on: panic")
		}
	})
	t.Run("error", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) { t.Error("not the end") })
		if !InGuest() {
			t.Log("went on: error")
		}
	})
	t.Run("sub", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) { t.Run("fatal", func(t *testing.T) { t.Fatal("its end") }) })
		if !InGuest() {
			t.Log("went on: sub")
		}
	})
	t.Run("attr", func(t *testing.T) {
		relayedRun(t, func(t *testing.T) {
			t.Attr("key", "a value")
			t.Run("sub", func(t *testing.T) { t.Attr("other", "") })
		})
	})
}

// TestRelayEnds: what a function in the guest does to the test's flow and attributes happens here as without a guest.
func TestRelayEnds(t *testing.T) {
	out, err := relayTests(t, "^TestRelayedEnds$")
	if err == nil {
		t.Error("the failing tests passed")
	}
	for _, want := range []string{
		"--- FAIL: TestRelayedEnds/fatal ", "--- FAIL: TestRelayedEnds/panic ", "--- FAIL: TestRelayedEnds/error ", "went on: error", "went on: sub",
		"=== ATTR  TestRelayedEnds/attr key a value\n", "=== ATTR  TestRelayedEnds/attr/sub other \n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	for _, unwanted := range []string{"went on: fatal", "went on: panic", "stile."} {
		if strings.Contains(out, unwanted) {
			t.Errorf("the output has %q", unwanted)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// relayTests runs tests of this binary with what they relay, and returns their output.
func relayTests(t *testing.T, pattern string, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-test.run=" + pattern, "-test.v", "-test.timeout=10m"}, args...)...)
	cmd.Env = append(os.Environ(), envRelayed+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRelayedLines is for TestRelayLines: it prints on both streams, and ends at once.
func TestRelayedLines(t *testing.T) {
	if os.Getenv(envRelayed) == "" {
		return
	}
	for range linesRounds {
		t.Run("lines", func(t *testing.T) {
			relayedRun(t, func(t *testing.T) {
				log.Print("line 1")
				fmt.Println("line 2")
				log.Print("line 3")
				fmt.Fprintln(os.Stderr, "line 4")
				fmt.Print("line 5")
			})
		})
		t.Run("exit", func(t *testing.T) {
			relayedRun(t, func(t *testing.T) {
				fmt.Fprintln(os.Stderr, "line 6")
				fmt.Print("line 7")
				os.Exit(0)
			})
		})
		t.Run("paused", func(t *testing.T) {
			relayedRun(t, func(t *testing.T) {
				t.Run("sub", func(t *testing.T) { t.Parallel() })
				fmt.Fprintln(os.Stderr, "line 8")
			})
		})
	}
}

// linesRounds is how often each line is printed.
const linesRounds = 10

// TestRelayLines: whatever a test prints arrives, on either stream, with or without its newline.
func TestRelayLines(t *testing.T) {
	out, _ := relayTests(t, "^TestRelayedLines$") // os.Exit fails its test
	for i := 1; i <= 8; i++ {
		if line := fmt.Sprintf("line %d", i); strings.Count(out, line) != linesRounds {
			t.Errorf("%q came %d times of %d", line, strings.Count(out, line), linesRounds)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// TestRelay: the results of a test that runs elsewhere are those of the test here.
func TestRelay(t *testing.T) {
	out, err := relayTests(t, "^TestRelayed$")
	if err == nil {
		t.Error("the failing tests passed")
	}
	for _, want := range []string{
		"--- PASS: TestRelayed/pass ", "--- PASS: TestRelayed/pass/a/b_c ", "--- PASS: TestRelayed/pass/a/b_c/deep ", "--- PASS: TestRelayed/pass/other ",
		"said in the guest", "--- FAIL: TestRelayed/fail ", "--- FAIL: TestRelayed/fail/sub ", "broken there",
		"--- SKIP: TestRelayed/skip ", "--- FAIL: TestRelayed/panic ", "panic: out of hand", "goroutine ",
		"--- FAIL: TestRelayed/exit ", "exit status 3", "--- FAIL: TestRelayed/never_comes ", "did not come to this call of Run",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// TestRelayPattern: the subtests that -run selects are the same there.
func TestRelayPattern(t *testing.T) {
	out, err := relayTests(t, "^TestRelayed$/pass/other")
	if err != nil || !strings.Contains(out, "/other ") || strings.Contains(out, "deep") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCmdPipes: what is left in a pipe doesn't keep Wait, as with os/exec.
func TestCmdPipes(t *testing.T) {
	vm := processVM(t)
	cmd := vm.Command(t.Context(), "sh", "-c", "echo first; echo second")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || cmd.ExitCode() != 0 {
		t.Errorf("status %d, %v", cmd.ExitCode(), err)
	}
	both := vm.Command(t.Context(), "sh", "-c", "cat; echo end >&2")
	var outErr error
	in, inErr := both.StdinPipe()
	out, outErr = both.StdoutPipe()
	diag, diagErr := both.StderrPipe()
	if err := errors.Join(inErr, outErr, diagErr, both.Start()); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "through")
	in.Close()
	text, _ := io.ReadAll(out) // to its end, before anything of the other is read
	said, _ := io.ReadAll(diag)
	if err := both.Wait(); err != nil || string(text) != "through" || string(said) != "end\n" {
		t.Errorf("%v, stdout %q, stderr %q", err, text, said)
	}
	if _, err := cmd.StdoutPipe(); err == nil {
		t.Error("a pipe after Start")
	}
	if err := cmd.Start(); err != ErrStarted {
		t.Errorf("second Start: %v", err)
	}
	if err := vm.Command(t.Context(), "true").Wait(); err != ErrNotStarted {
		t.Errorf("Wait without Start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vm.Command(ctx, "true").Run(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run with a context that has ended: %v", err)
	}
}
