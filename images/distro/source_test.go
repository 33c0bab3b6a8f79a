package distro

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sourceDeb(t testing.TB, entries ...entry) []byte {
	t.Helper()
	tarball := compress(t, ".xz", makeTar(t, entries...))
	return makeDeb(t, "", entry{name: "./usr/src/"}, entry{name: "./usr/src/linux-source-6.12.tar.xz", text: string(tarball)})
}

func TestFetchSource(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	f.add("", "linux-source-6.12", "6.12.117-1", "", sourceDeb(t,
		entry{name: "linux-source-6.12/"},
		entry{name: "linux-source-6.12/Makefile", text: "all:\n"},
		entry{name: "linux-source-6.12/a/b", link: "../Makefile"},
	))
	s, err := FetchSource(t.Context(), c, "6.12", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "linux-source-6.12 6.12.117-1" {
		t.Errorf("version %q", s.Version)
	}
	f.calls()
	if again, err := FetchSource(t.Context(), c, "6.12", nil); err != nil || *again != *s {
		t.Errorf("again: %+v, %v", again, err)
	}
	if calls := f.calls(); len(calls) > 0 {
		t.Errorf("asked again: %q", calls)
	}
	dir := t.TempDir()
	if err := s.Unpack(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a", "b")); err != nil || string(text) != "all:\n" {
		t.Errorf("a/b: %q, %v", text, err)
	}
	cachedKernels(t, c) // looks for what was left behind
}

func TestBadSource(t *testing.T) {
	for name, tt := range map[string]struct {
		deb  []byte
		want string
	}{
		"no tarball":  {makeDeb(t, ".gz", entry{name: "usr/src/readme", text: "x"}), "no usr/src"},
		"no regular":  {makeDeb(t, ".gz", entry{name: "usr/src/linux-source-6.12.tar.xz", link: "x"}), "no usr/src"},
		"its size":    {makeDeb(t, "", entry{name: "usr/src/linux-source-6.12.tar.xz", text: "x", size: 1 << 40}), "unpacks to more"},
		"is cut off":  {makeDeb(t, "", entry{name: "usr/src/linux-source-6.12.tar.xz", text: "x", size: 1 << 20}), "EOF"},
		"not found":   {nil, "404"},
		"not package": {[]byte("x"), "not an ar archive"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			f.add("", "linux-source-6.12", "1", "", tt.deb)
			_, err := testApt(t, false).source(t.Context(), c, "6.12", sourceMemo("6.12"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if _, ok := recall(c, sourceMemo("6.12")); ok {
				t.Error("a failure is remembered")
			}
			cachedKernels(t, c)
		})
	}
	for _, version := range []string{"", "6", "6.12-cloud", "../6.12"} {
		if _, err := FetchSource(t.Context(), openCache(t), version, nil); err == nil {
			t.Errorf("version %q was taken", version)
		}
	}
}

// TestUnpackSourceOutside refuses a source whose entries leave the folder after the first one is taken away.
func TestUnpackSourceOutside(t *testing.T) {
	var b bytes.Buffer
	deb := sourceDeb(t, entry{name: "linux/a/x", link: "../.."})
	if err := extractSource(bytes.NewReader(deb), &b); err != nil {
		t.Fatal(err)
	}
	s := &Source{Tarball: filepath.Join(t.TempDir(), "s.tar.xz")}
	if err := os.WriteFile(s.Tarball, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(s.Tarball, b.Bytes()[:b.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), t.TempDir()); err == nil || err == io.EOF {
		t.Errorf("a truncated source: error %v", err)
	}
}
