package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/agentproto"
)

func TestFindWritable(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(top, name) }
	for _, dir := range []string{"a/b", "a/c"} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/b/disk", "a/bb"} {
		if err := os.WriteFile(in(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b/disk", in("link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		give    []string
		folders []string
		paths   []string
	}{
		{"nothing", nil, nil, nil},
		{"a file", []string{"a/b/disk"}, []string{"a/b"}, []string{"a/b/disk"}},
		{"a link to it, and it", []string{"link", "a/b/disk"}, []string{"a/b"}, []string{"a/b/disk"}},
		{"a folder", []string{"a/c"}, []string{"a/c"}, []string{"a/c"}},
		{"a folder and a file in it", []string{"a/b/disk", "a"}, []string{"a"}, []string{"a", "a/b/disk"}},
		{"folders beside each other", []string{"a/c", "a/b/disk"}, []string{"a/b", "a/c"}, []string{"a/b/disk", "a/c"}},
		{"names that begin alike", []string{"a/bb", "a/b"}, []string{"a"}, []string{"a/b", "a/bb"}},
	} {
		var give, want, folders []string
		for _, name := range tt.folders {
			folders = append(folders, in(name))
		}
		for _, name := range tt.give {
			give = append(give, in(name))
		}
		for _, name := range tt.paths {
			want = append(want, in(name))
		}
		w, err := findWritable(give)
		if err != nil || !slices.Equal(w.paths, want) || !slices.Equal(w.folders, folders) {
			t.Errorf("%s: %+v, %v", tt.name, w, err)
		}
		mounts := w.mounts()
		if len(want) == 0 {
			if len(mounts) != 0 {
				t.Errorf("%s: mounts %+v", tt.name, mounts)
			}
			continue
		}
		last := mounts[len(mounts)-1]
		if len(mounts) != len(folders)+len(want) || last.Kind != agentproto.MountBind || last.Target != want[len(want)-1] ||
			!strings.HasPrefix(last.Source, writableMount) {
			t.Errorf("%s: mounts %+v", tt.name, mounts)
		}
	}
}

func TestWritableRefused(t *testing.T) {
	for _, path := range []string{"/dev/null", "/proc", "/sys/kernel", "/no/such/file"} {
		if w, err := findWritable([]string{path}); err == nil {
			t.Errorf("%s: %+v, want an error", path, w)
		}
	}
}

// TestWritableSharesNothingElse: no folder is shared because it lies above two others.
func TestWritableSharesNothingElse(t *testing.T) {
	w, err := findWritable([]string{t.TempDir(), "/var/tmp"})
	if err != nil || len(w.folders) != 2 || slices.Contains(w.folders, "/") {
		t.Errorf("%+v, %v", w, err)
	}
	var many []string
	for range maxWritable + 1 {
		many = append(many, t.TempDir())
	}
	if w, err := findWritable(many); err == nil {
		t.Errorf("%d folders: %+v", len(many), w)
	}
	if w, err := findWritable(many[1:]); err != nil || len(w.folders) != maxWritable {
		t.Errorf("%d folders: %+v, %v", maxWritable, w, err)
	}
}
