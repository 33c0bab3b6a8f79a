package agent

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPack(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "sub/b"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got := packedNames(t, dir, time.Time{}); len(got) != 2 || got["a"] != 0o640 || got["sub/b"] != 0o640 {
		t.Errorf("packed %v", got)
	}
	if got := packedNames(t, dir, time.Now().Add(time.Hour)); len(got) != 0 {
		t.Errorf("packed %v, which was not changed since", got)
	}
	if got := packedNames(t, filepath.Join(dir, "none"), time.Time{}); len(got) != 0 {
		t.Errorf("packed %v of nothing", got)
	}
}

func packedNames(t *testing.T, dir string, since time.Time) map[string]int64 {
	t.Helper()
	var b bytes.Buffer
	if err := pack(&b, dir, since); err != nil {
		t.Fatal(err)
	}
	names := make(map[string]int64)
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			return names
		}
		names[h.Name] = h.Mode
	}
}
