package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestDebianKernel boots Debian's stock kernel by its version, an xz bzImage whose virtio, 9p and overlay
// are modules, with a view of the host's root, and loads another of its modules.
func TestDebianKernel(t *testing.T) {
	needGuests(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := distro.Fetch(t.Context(), cache, "6.1", func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	if _, err := exec.LookPath("depmod"); err != nil {
		testenv.Missing(t, "kmod", err.Error())
	}
	run := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--power-off", "-k", "debian:6.1", "--",
		"sh", "-c", "uname -r; modprobe dummy && grep -q ^dummy /proc/modules && exit 4")
	run.Stderr = os.Stderr
	kill := time.AfterFunc(processLimit, func() { run.Process.Kill() })
	defer kill.Stop()
	out, _ := run.Output() // the state tells
	if code := run.ProcessState.ExitCode(); code != 4 {
		t.Errorf("exit status %d, want 4", code)
	}
	if got := strings.TrimSpace(string(out)); got != kernel.Release {
		t.Errorf("the guest runs %q, want %q", got, kernel.Release)
	}
}
