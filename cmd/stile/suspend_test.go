package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
)

// gapWatcher has the clock of its vCPU at 2 MiB, looks at the time, prints a letter, and waits for a jump of the time-stamp counter by 6,000,000,000. It exits
// with the clock's flags as they are then.
var gapWatcher = []byte{
	0xb9, 0x01, 0x4d, 0x56, 0x4b, // mov $0x4b564d01,%ecx
	0xb8, 0x01, 0x00, 0x20, 0x00, // mov $0x200001,%eax
	0x31, 0xd2, // xor %edx,%edx
	0x0f, 0x30, // wrmsr
	0x0f, 0x31, // rdtsc
	0x48, 0xc1, 0xe2, 0x20, // shl $32,%rdx
	0x48, 0x09, 0xd0, // or %rdx,%rax
	0x48, 0x89, 0xc6, // mov %rax,%rsi
	0xba, 0xf8, 0x03, 0x00, 0x00, // mov $0x3f8,%edx
	0xb0, 0x78, // mov $'x',%al
	0xee,       // out %al,(%dx)
	0x0f, 0x31, // again: rdtsc
	0x48, 0xc1, 0xe2, 0x20, // shl $32,%rdx
	0x48, 0x09, 0xd0, // or %rdx,%rax
	0x48, 0x89, 0xc3, // mov %rax,%rbx
	0x48, 0x29, 0xf3, // sub %rsi,%rbx
	0x48, 0x89, 0xc6, // mov %rax,%rsi
	0x48, 0xb9, 0x00, 0xbc, 0xa0, 0x65, 0x01, 0x00, 0x00, 0x00, // movabs $6000000000,%rcx
	0x48, 0x39, 0xcb, // cmp %rcx,%rbx
	0x72, 0xdf, // jb again
	0x8a, 0x04, 0x25, 0x1d, 0x00, 0x20, 0x00, // mov 0x20001d,%al
	0xe6, 0xf4, // out %al,$0xf4
}

// TestStopped stops stile and its guest. Before the guest can see that time has passed, it knows that it was stopped: after
// SIGTSTP, as its vCPUs were held, and after a SIGSTOP of some seconds, which stile learns of afterwards.
func TestStopped(t *testing.T) {
	testenv.KVM(t)
	const guestStopped = 2 // PVCLOCK_GUEST_STOPPED
	kernel := kernelOf(t, gapWatcher)
	initramfs := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(initramfs, make([]byte, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		signal syscall.Signal
		length time.Duration
	}{
		"SIGTSTP": {syscall.SIGTSTP, 4 * time.Second},
		"SIGSTOP": {syscall.SIGSTOP, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			report := filepath.Join(t.TempDir(), "report")
			cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--on", "host", "-m", "128M", "-k", kernel, "-i", initramfs, "--json", report)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer time.AfterFunc(processLimit, func() { cmd.Process.Kill() }).Stop()
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			awaitState(t, cmd.Process.Pid, "T")
			time.Sleep(test.length)
			if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if flags := exitCode(t, cmd); flags&guestStopped == 0 {
				t.Errorf("the guest's clock has the flags %#x; stderr %q", flags, strings.TrimSpace(stderr.String()))
			}
			if r := readReport(t, report); r.Stops == 0 {
				t.Error("the report has no stops")
			}
		})
	}
}
