package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestDebianKernel boots Debian's stock kernel, an xz bzImage whose virtio, 9p and overlay
// are modules, with a view of the host's root.
func TestDebianKernel(t *testing.T) {
	needGuests(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	find := exec.Command("../../hack/debian-kernel", filepath.Join(cache.Dir(), "debian"))
	find.Stderr = os.Stderr
	out, err := find.Output()
	if err != nil {
		testenv.Missing(t, "debian-kernel", "hack/debian-kernel: "+err.Error())
	}
	kernel := strings.TrimSpace(string(out))
	run := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "-k", kernel, "--", "sh", "-c", "uname -r; exit 4")
	run.Stderr = os.Stderr
	kill := time.AfterFunc(processLimit, func() { run.Process.Kill() })
	defer kill.Stop()
	out, _ = run.Output() // the state tells
	if code := run.ProcessState.ExitCode(); code != 4 {
		t.Errorf("exit status %d, want 4", code)
	}
	release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	if got := strings.TrimSpace(string(out)); got != release {
		t.Errorf("the guest runs %q, want %q", got, release)
	}
}
