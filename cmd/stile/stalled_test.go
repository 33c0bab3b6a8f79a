package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmm"
)

// TestStalledBoot boots what switches interrupts off and halts: nothing but the clock can tell. It takes a minute.
func TestStalledBoot(t *testing.T) {
	testenv.KVM(t)
	if !testenv.Soak() {
		testenv.Missing(t, "time", "STILE_SOAK is not set")
	}
	halt := []byte{0xfa, 0xf4, 0xeb, 0xfc} // cli; again: hlt; jmp again
	report := filepath.Join(t.TempDir(), "report")
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--on", "host", "-m", "128M", "-k", kernelOf(t, halt), "--json", report, "--", "true")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
	defer kill.Stop()
	if got := exitCode(t, cmd); got != guest.ExitTimeout || !strings.Contains(stderr.String(), "the guest's boot makes no progress: no exit and no output for 1m0s") {
		t.Errorf("exit status %d: %s", got, &stderr)
	}
	r := readReport(t, report)
	if r.Reason != string(vmm.Stalled) || r.Guest == nil || r.Guest.Reason != vmm.Stalled || r.ID == "" || len(r.Phases) == 0 {
		t.Errorf("the report says %+v", r)
	}
}

// readReport returns what a stile wrote with --json.
func readReport(t *testing.T, path string) guest.Report {
	t.Helper()
	var r guest.Report
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r
}
