package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackingIsChosen: an image makes no file of this host readable that is not beside it, unless the user names that.
func TestBackingIsChosen(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(dir, "base"), filepath.Join(dir, "sub", "base"), filepath.Join(other, "secret")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(other, "secret")
	for link, to := range map[string]string{"link": secret, "good": "base"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	relative, err := filepath.Rel(dir, secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		allowed string
		refused bool
	}{
		{name: "base"}, {name: filepath.Join(dir, "base")}, {name: "good"},
		{name: secret, refused: true}, {name: relative, refused: true}, {name: "link", refused: true}, {name: "sub/base", refused: true},
		{name: "file:" + secret, refused: true}, {name: secret, allowed: other + "x", refused: true}, {name: secret, allowed: other},
		{name: secret, allowed: secret}, {name: "sub/base", allowed: dir}, {name: "link", allowed: filepath.Join(dir, "link")},
	} {
		if test.allowed == other+"x" {
			if err := os.MkdirAll(other+"x", 0o755); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(other + "x")
		}
		path := writeBacked(t, filepath.Join(dir, "image"), test.name, "raw")
		for _, format := range []Format{Detect, QCOW2} {
			img, err := Open(Options{Path: path, Format: format, COW: true, Backing: test.allowed})
			if err == nil {
				img.Close()
			}
			if (err != nil) != test.refused || err != nil && !strings.Contains(err.Error(), "backing=") {
				t.Errorf("%s with %q: %v", test.name, test.allowed, err)
			}
		}
	}
	// A device is allowed by its own name alone, wherever it is.
	f, err := openFile(filepath.Join(dir, "base"), false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for _, c := range []struct {
		allowed string
		ok      bool
	}{{"", false}, {filepath.Join(dir, "good"), true}} {
		chain, err := newChain(c.allowed)
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.check(f, filepath.Join(dir, "base"), true); (err == nil) != c.ok {
			t.Errorf("a device with %q: %v", c.allowed, err)
		}
	}
}
