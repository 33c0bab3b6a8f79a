package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLabDevicesAdvice: what stile lab devices advises can be typed as it stands, and doesn't take from the lab what it
// needs itself.
func TestLabDevicesAdvice(t *testing.T) {
	needGuests(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "lab", "devices", "--topology", "singleton")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	for line := range strings.Lines(string(out)) {
		advice, found := strings.CutPrefix(strings.TrimSpace(line), "→ ")
		if !found {
			continue
		}
		if !strings.HasPrefix(advice, "stile lab run --topology singleton -- sh -c 'stile bind ") {
			t.Errorf("advised is %q, which is of no use where it is read", advice)
		}
		for _, own := range []string{labChannel, labShare} {
			if strings.Contains(advice, own) {
				t.Errorf("advised is %q: the lab stands on %s", advice, own)
			}
		}
	}
	for _, want := range []string{
		"stile bind 0000:02:00.0 && COMMAND'", labChannel + " is on the host's driver virtio-pci (stile steers this machine through it",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("without %q:\n%s", want, out)
		}
	}
}
