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
		name   string
		give   []string
		folder string
		paths  []string
	}{
		{"nothing", nil, "", nil},
		{"a file", []string{"a/b/disk"}, "a/b", []string{"a/b/disk"}},
		{"a link to it, and it", []string{"link", "a/b/disk"}, "a/b", []string{"a/b/disk"}},
		{"a folder", []string{"a/c"}, "a/c", []string{"a/c"}},
		{"a folder and a file in it", []string{"a/b/disk", "a"}, "a", []string{"a", "a/b/disk"}},
		{"names that begin alike", []string{"a/bb", "a/b"}, "a", []string{"a/b", "a/bb"}},
	} {
		var give, want []string
		for _, name := range tt.give {
			give = append(give, in(name))
		}
		for _, name := range tt.paths {
			want = append(want, in(name))
		}
		w, err := findWritable(give)
		if err != nil || !slices.Equal(w.paths, want) || tt.folder != "" && w.folder != in(tt.folder) {
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
		if len(mounts) != 1+len(want) || last.Kind != agentproto.MountBind || last.Target != want[len(want)-1] ||
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

func TestCommonFolder(t *testing.T) {
	for _, tt := range [][3]string{{"/a", "/a", "/a"}, {"/a/b", "/a", "/a"}, {"/a/b", "/a/c/d", "/a"}, {"/a", "/b", "/"}, {"/", "/b", "/"}} {
		if got := commonFolder(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s and %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}
