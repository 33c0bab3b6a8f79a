package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmm"
)

// TestSoftLockup has a module, built here for Debian's kernel, keep a guest's only CPU from the kernel's threads. The kernel's detector tells of it.
func TestSoftLockup(t *testing.T) {
	needGuests(t)
	if !testenv.Soak() {
		testenv.Missing(t, "time", "STILE_SOAK is not set")
	}
	module := debianModule(t, "lockup")
	report := filepath.Join(t.TempDir(), "report")
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "-k", "debian:6.1", "--timeout", processLimit.String(), "--json", report, "--",
		"sh", "-c", "echo 1 >/proc/sys/kernel/watchdog_thresh && exec insmod "+module)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := exitCode(t, cmd); got != guest.ExitDied || !strings.Contains(stderr.String(), "a CPU of the guest is locked up: BUG: soft lockup - CPU#0 stuck for") {
		t.Errorf("exit status %d: %s", got, &stderr)
	}
	if r := readReport(t, report); r.Guest == nil || r.Guest.Reason != vmm.Lockup {
		t.Errorf("the report says %+v", r)
	}
}
