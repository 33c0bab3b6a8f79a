package vmtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmtest"
)

// TestGuestStarves: a guest that does nothing for us any more costs a command its time, and no more.
func TestGuestStarves(t *testing.T) {
	vm := vmtest.Start(t, vmtest.Config{Memory: 192 << 20})
	t.Run("memory", func(t *testing.T) {
		// One system call takes it all: a program's own pages, fetched again and again, would put the end off by minutes under emulation.
		err := vm.Command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/vm/overcommit_memory; exec dd if=/dev/zero of=/dev/null bs=1G").Run()
		var exit *vmtest.ExitError
		if err == nil || !errors.As(err, &exit) && !errors.Is(err, session.ErrAgentLost) {
			t.Errorf("a command that takes all memory: %v", err)
		}
	})
	t.Run("processes", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		cmd := vm.Command(ctx, "sh", "-c", "bomb() { bomb | bomb; }; bomb")
		cmd.WaitDelay = time.Second
		if err := cmd.Run(); err == nil {
			t.Error("a fork bomb ended well")
		}
	})
}

// TestGuestPanics: every use of a VM that has died says why.
func TestGuestPanics(t *testing.T) {
	vm := vmtest.Start(t, vmtest.Config{})
	if err := vm.WriteFile(t.Context(), "/proc/sysrq-trigger", []byte("c"), 0o600); err == nil {
		t.Fatal("a file of the kernel's was replaced")
	}
	err := vm.Command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 100").Run()
	if err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("the command that panicked the kernel: %v", err)
	}
	<-vm.Done()
	if _, err := vm.ReadFile(t.Context(), "/etc/hostname"); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("reading a file afterwards: %v", err)
	}
	if err := vm.Command(t.Context(), "true").Run(); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("a command afterwards: %v", err)
	}
	if !strings.Contains(string(vm.KernelLog()), "panic") {
		t.Errorf("the kernel's last words:\n%s", vm.KernelLog())
	}
	if err := vm.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
