package whole

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

func TestMain(m *testing.M) { vmtest.Main(m) }

func TestPrivileged(t *testing.T) {
	if !Privileged() || !vmtest.InGuest() {
		t.Errorf("privileged: %v, in a guest: %v", Privileged(), vmtest.InGuest())
	}
	if err := os.WriteFile("/etc/hostname", []byte("only in the guest\n"), 0o644); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "note"), []byte("from the guest\n"), 0o644); err != nil {
		t.Error(err)
	}
}

func BenchmarkPrivileged(b *testing.B) {
	for b.Loop() {
		Privileged()
	}
}
