package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuestsInLabDrawAnew: nested hosts that are resumed from one saved state, and the guests in them, have random numbers
// of their own.
func TestGuestsInLabDrawAnew(t *testing.T) {
	needGuests(t)
	seen := make(map[string]bool)
	for range 2 {
		for _, args := range [][]string{{"lab", "run", "--"}, {"run", "--on", "lab", "-m", "128M", "--"}} {
			cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append(args, "cat",
				"/proc/sys/kernel/random/uuid", "/proc/sys/kernel/random/boot_id")...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("stile %q: %v: %s", args, err, &stderr)
			}
			drawn := strings.Fields(string(out))
			if len(drawn) != 2 {
				t.Fatalf("stile %q printed %q", args, out)
			}
			for _, id := range drawn {
				if seen[id] {
					t.Errorf("stile %q: %s was drawn before", args, id)
				}
				seen[id] = true
			}
		}
	}
}

// TestWrapsInLabDrawAnew: so have mediated devices that are named at random.
func TestWrapsInLabDrawAnew(t *testing.T) {
	seen := make(map[string]bool)
	for range 2 {
		p := wrappedLab(t)
		uuid := p.wrap(t, labEdu)[1]
		if seen[uuid] {
			t.Errorf("%s was drawn before", uuid)
		}
		seen[uuid] = true
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
