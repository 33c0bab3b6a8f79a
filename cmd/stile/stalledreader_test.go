package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestStalledReader: who does not read what stile and the guest print holds neither a time limit nor a signal up.
func TestStalledReader(t *testing.T) {
	testenv.KVM(t)
	kernel := kernelOf(t, chatter())
	initramfs := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(initramfs, make([]byte, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		flags  []string
		signal bool
		want   int
	}{
		{"time limit", []string{"--timeout", "3s", "-i", initramfs}, false, guest.ExitTimeout},
		{"signal", []string{"-i", initramfs}, true, 128 + int(syscall.SIGTERM)},
		{"boot", []string{"-v", "--boot-timeout", "3s", "--", "true"}, false, guest.ExitTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--on", "host", "-m", "128M", "-k", kernel}, tt.flags...)
			if got := stalled(t, args, tt.signal); got != tt.want {
				t.Errorf("exit status %d, want %d", got, tt.want)
			}
		})
	}
}

// TestStalledReaderInLab: the same of a command in the lab, whose nested stile writes to the same pipe.
func TestStalledReaderInLab(t *testing.T) {
	needGuests(t)
	for _, tt := range []struct {
		name   string
		flags  []string
		signal bool
		want   int
	}{
		{"time limit", []string{"--timeout", "3s"}, false, guest.ExitTimeout},
		{"signal", nil, true, 128 + int(syscall.SIGTERM)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append(append([]string{"--on", "lab"}, tt.flags...), "--", "sh", "-c", "yes")
			if got := stalled(t, args, tt.signal); got != tt.want {
				t.Errorf("exit status %d, want %d", got, tt.want)
			}
		})
	}
}

// stalled runs stile with a pipe for its output that nobody reads, ends it by SIGTERM if that is wanted, and returns its exit status. One
// that hangs ends the test.
func stalled(t *testing.T, args []string, signal bool) int {
	t.Helper()
	reader, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer output.Close()
	if _, err := unix.FcntlInt(output.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append([]string{"run"}, args...)...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hangs := false
	kill := time.AfterFunc(processLimit/2, func() { hangs = true; cmd.Process.Kill() })
	defer kill.Stop()
	await(t, "output", func() bool {
		waiting, err := unix.IoctlGetInt(int(reader.Fd()), unix.TIOCINQ)
		return err != nil || waiting > 0
	})
	if signal {
		time.Sleep(time.Second) // by now the pipe is full
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	status := exitCode(t, cmd)
	if hangs {
		t.Fatal("it hangs")
	}
	return status
}
