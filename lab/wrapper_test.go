package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestWrapperIsAsked has a script start another QEMU without being changed itself.
func TestWrapperIsAsked(t *testing.T) {
	dir := t.TempDir()
	script, version := filepath.Join(dir, "qemu"), filepath.Join(dir, "version")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec cat "+version+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	identity := func(text string) string {
		t.Helper()
		if err := os.WriteFile(version, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		q, err := openQEMU(script)
		if err != nil {
			t.Fatal(err)
		}
		return q.Identity
	}
	seen := make(map[string]string)
	for _, v := range []string{"9.2.0", "10.0.1", "10.0.2"} {
		id := identity(fmt.Sprintf("QEMU emulator version %s\n", v))
		if before, ok := seen[id]; ok {
			t.Errorf("QEMU %s behind a script is taken for %s", v, before)
		}
		seen[id] = v
	}
	if identity("nonsense") == "" {
		t.Error("a script that says nothing of use has no identity")
	}
}
