package vmtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmtest"
)

// TestCommands runs many commands in one VM.
func TestCommands(t *testing.T) {
	vm := vmtest.Shared(t, vmtest.Config{})
	t.Run("output", func(t *testing.T) {
		out, err := vm.Command(t.Context(), "uname", "-r").Output()
		if err != nil || strings.TrimSpace(string(out)) != vm.Kernel() {
			t.Errorf("uname -r: %q, %v; the agent says %q", out, err, vm.Kernel())
		}
	})
	t.Run("processors and ACPI", func(t *testing.T) {
		out, err := vm.Command(t.Context(), "sh", "-c", "nproc; ls /sys/firmware/acpi/tables; cat /proc/interrupts").Output()
		text := string(out)
		if err != nil || !strings.HasPrefix(text, "1\n") || !strings.Contains(text, "DSDT") || !strings.Contains(text, "virtio") {
			t.Errorf("%v: %s", err, text)
		}
	})
	t.Run("exit status", func(t *testing.T) {
		_, err := vm.Command(t.Context(), "sh", "-c", "echo why >&2; exit 9").Output()
		var exit *vmtest.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 9 || string(exit.Stderr) != "why\n" {
			t.Errorf("error is %#v", err)
		}
	})
	t.Run("signal", func(t *testing.T) {
		err := vm.Command(t.Context(), "sh", "-c", "kill -KILL $$").Run()
		var exit *vmtest.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 137 {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("not found", func(t *testing.T) {
		err := vm.Command(t.Context(), "stile-no-such-command").Run()
		var start *session.StartError
		if !errors.As(err, &start) || start.ExitCode() != 127 || !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("binary pipe", func(t *testing.T) {
		data := make([]byte, 4<<20)
		rng := rand.NewChaCha8([32]byte{1})
		_, _ = rng.Read(data)
		var out bytes.Buffer
		cmd := vm.Command(t.Context(), "cat")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(data), &out
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(out.Bytes()) != sha256.Sum256(data) {
			t.Errorf("%d bytes came back, and not those that went in", out.Len())
		}
	})
	t.Run("host is read-only", func(t *testing.T) {
		const name = "written-by-a-guest"
		out, err := vm.Command(t.Context(), "sh", "-c", "echo x >"+name+" && cat "+name).CombinedOutput()
		if err != nil || string(out) != "x\n" {
			t.Errorf("%v: %s", err, out)
		}
		if _, err := vm.Command(t.Context(), "test", "-e", "vmtest.go").Output(); err != nil {
			t.Errorf("the test's folder is not the guest's: %v", err)
		}
		if _, err := os.Stat(name); err == nil {
			t.Error("the guest wrote to the host")
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := vm.Command(ctx, "sleep", "1000").Run(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error of a command that outlived its context: %v", err)
		}
	})
	t.Run("pipes", func(t *testing.T) {
		cmd := vm.Command(t.Context(), "sh", "-c", "cat; echo end >&2")
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		diag, diagErr := cmd.StderrPipe()
		if err := errors.Join(inErr, outErr, diagErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"one\n", "two\n"} {
			if _, err := io.WriteString(in, line); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(line))
			if _, err := io.ReadFull(out, got); err != nil || string(got) != line {
				t.Fatalf("%q came back as %q, %v", line, got, err)
			}
		}
		in.Close()
		rest, _ := io.ReadAll(out)
		said, _ := io.ReadAll(diag)
		if err := cmd.Wait(); err != nil || len(rest) > 0 || string(said) != "end\n" || !cmd.ProcessState.Success() || cmd.Pid() == 0 {
			t.Errorf("%v, rest %q, stderr %q, state %v, process %d", err, rest, said, cmd.ProcessState, cmd.Pid())
		}
		if err := cmd.Wait(); !errors.Is(err, vmtest.ErrWaited) {
			t.Errorf("second Wait: %v", err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := vm.Command(ctx, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Cancel = func() error { return cmd.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = time.Minute
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		cancel()
		err = cmd.Wait()
		if !errors.Is(err, context.Canceled) || cmd.ExitCode() != 7 {
			t.Errorf("status %d, %v", cmd.ExitCode(), err)
		}
	})
	t.Run("files", func(t *testing.T) {
		data := bytes.Repeat([]byte("stile\n"), 20_000)
		for _, name := range []string{"/tmp/tree/a", "/tmp/tree/sub/b"} {
			if err := vm.WriteFile(t.Context(), name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := vm.ReadFile(t.Context(), "/tmp/tree/a"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := vm.ReadFile(t.Context(), "/tmp/tree/c"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file that is not there: %v", err)
		}
		if _, err := vm.ReadFile(t.Context(), "/tmp/tree"); err == nil {
			t.Error("a folder was read as a file")
		}
		to := t.TempDir()
		if err := vm.PullFolder(t.Context(), "/tmp/tree", to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(to, "sub", "b")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("files of the kernel", func(t *testing.T) {
		if got, err := vm.ReadFile(t.Context(), "/proc/version"); err != nil || !strings.HasPrefix(string(got), "Linux version ") {
			t.Errorf("procfs: %q, %v", got, err)
		}
		const setting = "/proc/sys/kernel/panic"
		if err := vm.WriteFile(t.Context(), setting, []byte("17\n"), 0o644); err != nil {
			t.Error(err)
		}
		if got, err := vm.ReadFile(t.Context(), setting); err != nil || string(got) != "17\n" {
			t.Errorf("a sysctl: %q, %v", got, err)
		}
		to := t.TempDir()
		if err := vm.Pull(t.Context(), "/sys/kernel/uevent_seqnum", filepath.Join(to, "seqnum")); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(filepath.Join(to, "seqnum")); err != nil || len(got) < 2 || len(got) > 30 {
			t.Errorf("sysfs: %q, %v", got, err)
		}
		if err := vm.PullFolder(t.Context(), "/sys/devices/system/cpu/vulnerabilities", filepath.Join(to, "v")); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(filepath.Join(to, "v", "meltdown")); err != nil || len(got) < 5 || len(got) > 200 {
			t.Errorf("a folder of sysfs: %q, %v", got, err)
		}
		if err := vm.Push(t.Context(), to, "/tmp/folder"); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("push of a folder: %v", err)
		}
		if err := vm.Push(t.Context(), "/proc/version", "/tmp/version"); err != nil {
			t.Error(err)
		}
		if got, err := vm.ReadFile(t.Context(), "/tmp/version"); err != nil || len(got) < 10 {
			t.Errorf("pushed from procfs: %q, %v", got, err)
		}
	})
	t.Run("dial", func(t *testing.T) {
		if conn, err := vm.Dial(t.Context(), "tcp", "127.0.0.1:9"); err == nil {
			conn.Close()
			t.Error("connected to a port on which nobody listens")
		}
	})
	t.Run("stdin left open", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		cmd := vm.Command(t.Context(), "true")
		cmd.Stdin = r
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
	})
}
