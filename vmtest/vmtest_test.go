package vmtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmtest"
)

// TestCommands runs many commands in one VM.
func TestCommands(t *testing.T) {
	vm := vmtest.Start(t, vmtest.Config{})
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
		if !errors.As(err, &start) || start.ExitCode() != 127 {
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
		if err := vm.Command(ctx, "sleep", "1000").Run(); err == nil {
			t.Error("a command outlived its context")
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
