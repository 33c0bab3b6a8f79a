package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

func TestMemory(t *testing.T) {
	vmtest.Run(t, vmtest.Config{Memory: 256 << 20}, func(t *testing.T) {
		dir := t.TempDir()
		if err := Memory(dir, "64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, 0) })
		t.Run("fits", func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "small"), make([]byte, 1<<10), 0o600); err != nil {
				t.Error(err)
			}
		})
		t.Run("is full", func(t *testing.T) {
			err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("1 MiB in 64 KiB: %v", err)
			}
		})
	})
}
