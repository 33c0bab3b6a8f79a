package share_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

// TestManyEntries lists a large directory, each entry of which comes once.
func TestManyEntries(t *testing.T) {
	const entries = 100_000
	// In memory, where there is a place for that: a disk takes half a minute to make them.
	dir, err := os.MkdirTemp("/dev/shm", "stile-")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	for i := range entries {
		must(t, unix.Mknod(fmt.Sprintf("%s/entry-%d", dir, i), unix.S_IFREG|0o600, 0))
	}
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	_, d, err := root.Walk(nil)
	must(t, err)
	_, _, err = d.Open(p9.ReadOnly)
	must(t, err)
	keep(t, d)
	seen := make(map[string]bool, entries)
	for _, e := range list(t, d, 32<<10) {
		if seen[e.Name] {
			t.Fatalf("%s comes twice", e.Name)
		}
		seen[e.Name] = true
	}
	if len(seen) != entries+2 {
		t.Errorf("%d entries, want %d", len(seen), entries+2)
	}
}
