package distro

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// extractAll unpacks a plain tar archive into dir/in.
func extractAll(t testing.TB, dir string, archive []byte, limit limits) error {
	t.Helper()
	in := filepath.Join(dir, "in")
	if err := os.MkdirAll(in, 0o755); err != nil {
		t.Fatal(err)
	}
	x, err := newExtractor(t.Context(), in, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	return walkTar("", bytes.NewReader(archive), func(h *tar.Header, r io.Reader) error {
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		return x.add(name, h, r)
	})
}

var small = limits{bytes: 1 << 20, entries: 100}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	err := extractAll(t, dir, makeTar(t,
		entry{name: "./"},
		entry{name: "./a/b/"},
		entry{name: "./a/b/file", text: "text"},
		entry{name: "a/up", link: "../a/b/file"},
		entry{name: "a/b/here", link: "./file"},
		entry{name: "c/d/../e", text: "clean"},
		entry{name: "a/dangling", link: "nowhere"},
	), small)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"a/b/file": "text", "a/up": "text", "a/b/here": "text", "c/e": "clean"} {
		got, err := os.ReadFile(filepath.Join(dir, "in", path))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestExtractRefuses(t *testing.T) {
	for name, entries := range map[string][]entry{
		"up":                       {{name: "../out", text: "x"}},
		"up inside":                {{name: "a/../../out", text: "x"}},
		"absolute":                 {{name: "/tmp/out", text: "x"}},
		"link up":                  {{name: "out", link: ".."}},
		"link up, deeper":          {{name: "a/b/out", link: "../../.."}},
		"link to an absolute path": {{name: "out", link: "/etc"}},
		"link to nothing":          {{name: "out", kind: tar.TypeSymlink}},
		"link through another":     {{name: "a/b/top", link: "../.."}, {name: "a/b/out", link: "top/../x"}},
		"behind a link":            {{name: "a/b/top", link: "../.."}, {name: "a/b/top/out", link: "../../../x"}},
		"file behind a link":       {{name: "d/"}, {name: "l", link: "d"}, {name: "l/file", text: "x"}},
		"folder over a link":       {{name: "l", link: "d"}, {name: "l/"}},
		"file over a link":         {{name: "l", link: "d"}, {name: "l", text: "x"}},
		"file twice":               {{name: "f", text: "x"}, {name: "f", text: "y"}},
		"hard link":                {{name: "f", text: "x"}, {name: "g", kind: tar.TypeLink, link: "f"}},
		"device":                   {{name: "dev", kind: tar.TypeBlock}},
		"pipe":                     {{name: "pipe", kind: tar.TypeFifo}},
		"truncated":                {{name: "f", text: "x", size: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := extractAll(t, dir, makeTar(t, entries...), small); err == nil {
				t.Error("was unpacked")
			}
			if outside, _ := os.ReadDir(dir); len(outside) != 1 {
				t.Errorf("left outside: %v", outside)
			}
		})
	}
}

func TestExtractBounds(t *testing.T) {
	var many []entry
	for i := range 101 {
		many = append(many, entry{name: strings.Repeat("f", i+1)})
	}
	half := entry{text: strings.Repeat("x", 1<<19)}
	for name, entries := range map[string][]entry{
		"many entries":   many,
		"many bytes":     {{name: "a", text: half.text}, {name: "b", text: half.text}, {name: "c", text: "x"}},
		"a size that is": {{name: "a", text: "x", size: 1 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := extractAll(t, t.TempDir(), makeTar(t, entries...), small); !errors.Is(err, errTooBig) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestExtractEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x, err := newExtractor(ctx, t.TempDir(), small)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.add("f", &tar.Header{Typeflag: tar.TypeReg}, strings.NewReader("")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// FuzzExtract unpacks any archive: nothing may appear beside the folder, and no link may lead out of it.
func FuzzExtract(f *testing.F) {
	f.Add(makeTar(f, kernelEntries("6.1.0-1-amd64")...))
	f.Add(makeTar(f, entry{name: "a/b/up", link: "../.."}, entry{name: "a/b/file", text: "x"}, entry{name: "a/l", link: "b/up/x"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		extractAll(t, dir, archive, small)
		if outside, err := os.ReadDir(dir); err != nil || len(outside) != 1 {
			t.Fatalf("beside the folder: %v, %v", outside, err)
		}
		in := filepath.Join(dir, "in")
		filepath.WalkDir(in, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeSymlink == 0 {
				return err
			}
			if real, err := filepath.EvalSymlinks(path); err == nil && real != in && !strings.HasPrefix(real, in+"/") {
				t.Errorf("%s leads to %s", path, real)
			}
			return nil
		})
	})
}
