package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
)

// TestPrune: without flags, what was used lately stays.
func TestPrune(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	cache, err := images.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	make := func(name string, unused time.Duration) {
		path := filepath.Join(cache.Dir(), "kernel", name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Now().Add(-unused), time.Now().Add(-unused)); err != nil {
			t.Fatal(err)
		}
	}
	make("now", time.Minute)
	make("days", 72*time.Hour)
	make("weeks", 500*time.Hour)
	for _, test := range []struct {
		args, left string
		says       []string
	}{
		{"--dry-run --all", "days now weeks", []string{"would remove kernel now, 4K, last used ", "would free 12K: 3 of 3 things"}},
		{"--dry-run", "days now weeks", []string{"would remove kernel weeks", "would free 4K: 1 of 3 things; the others were used within 168h0m0s (--all removes them, too)"}},
		{"", "days now", []string{"removed kernel weeks, 4K, last used ", "freed 4K: 1 of 3 things"}},
		{"--unused-for 48h", "now", []string{"removed kernel days", "freed 4K: 1 of 2 things"}},
		{"--all --unused-for 48h", "now", []string{"--all and --unused-for cannot be combined"}},
		{"--all", "", []string{"removed kernel now", "freed 4K: 1 of 1 things"}},
		{"", "", []string{"freed 0K: 0 of 0 things"}},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append([]string{"image", "prune"}, strings.Fields(test.args)...)...)
		cmd.Env = append(os.Environ(), images.EnvCache+"="+dir)
		out, err := cmd.CombinedOutput()
		if fails := strings.HasPrefix(test.says[0], "--all and"); fails != (err != nil) {
			t.Errorf("prune %s: %v", test.args, err)
		}
		for _, want := range test.says {
			if !strings.Contains(string(out), want) {
				t.Errorf("prune %s: no %q in %s", test.args, want, out)
			}
		}
		var left []string
		files, err := os.ReadDir(filepath.Join(cache.Dir(), "kernel"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			left = append(left, f.Name())
		}
		if strings.Join(left, " ") != test.left {
			t.Errorf("prune %s leaves %q, want %q", test.args, left, test.left)
		}
	}
}
