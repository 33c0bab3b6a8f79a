package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// processLimit ends a stile that hangs.
const processLimit = 5 * time.Minute

// startSleeper starts stile with a guest that prints "ready" and sleeps, and returns once
// it is ready.
func startSleeper(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--", "sh", "-c", command)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		cmd.Process.Kill()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the guest's command said %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return cmd
}

// exitCode waits for cmd.
func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	_ = cmd.Wait() // the state tells
	if cmd.ProcessState == nil {
		t.Fatal("no exit status")
	}
	return cmd.ProcessState.ExitCode()
}

func TestSignals(t *testing.T) {
	needGuests(t)
	for _, test := range []struct {
		name    string
		command string
		signals []syscall.Signal
		want    int
	}{
		{"SIGINT goes to the command", "echo ready; exec sleep 1000", []syscall.Signal{syscall.SIGINT}, 130},
		{"SIGTERM is the command's to handle", "trap 'exit 5' TERM; (sleep 1; echo ready) & while :; do sleep 1; done", []syscall.Signal{syscall.SIGTERM}, 5},
		{"the second SIGINT ends the VM", "trap '' INT; echo ready; while :; do sleep 0.1; done", []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := startSleeper(t, test.command)
			for i, sig := range test.signals {
				if i > 0 {
					time.Sleep(2 * time.Second) // two signals at once are one
				}
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			if got := exitCode(t, cmd); got != test.want {
				t.Errorf("exit status %d, want %d", got, test.want)
			}
		})
	}
}

// TestKilled kills stile: nothing it started may stay.
func TestKilled(t *testing.T) {
	needGuests(t)
	cmd := startSleeper(t, "echo ready; exec sleep 1000")
	children := descendants(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	awaitGone(t, children)
}

// awaitGone waits for the end of what stile has started. Nothing of it may outlive stile by more than the kernel takes.
func awaitGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, pid := range pids {
		for syscall.Kill(pid, 0) == nil && !zombie(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d outlives stile", pid)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// descendants returns the processes below pid.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	var all []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that ended
		}
		for _, field := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				all = append(append(all, child), descendants(t, child)...)
			}
		}
	}
	return all
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}
