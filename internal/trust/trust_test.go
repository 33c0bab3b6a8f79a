package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stranger makes dir another user's for the checks that follow, and returns the user they are made for.
func stranger(t *testing.T, dir string) (caller int) {
	t.Helper()
	if os.Geteuid() != 0 {
		return os.Geteuid() + 1
	}
	if err := os.Lchown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	return 0
}

func TestCheck(t *testing.T) {
	top := t.TempDir()
	for _, dir := range []string{"mine/sub", "open/sub", "sticky/sub"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"open": 0o777, "sticky": 0o777 | os.ModeSticky} {
		if err := os.Chmod(filepath.Join(top, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"mine/good": "sub", "mine/bad": "../open/sub", "mine/loop": "loop", "mine/dangling": "none/there"} {
		if err := os.Symlink(to, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"mine": "", "mine/sub": "", "mine/sub/new/er": "", "sticky/sub": "", "sticky/new": "", "mine/good/new": "", "mine/dangling": "",
		"sticky": "can be changed by other users", "open": "can be changed", "open/sub": "open can be changed", "open/new": "open can be changed",
		"mine/bad/x": "open can be changed", "mine/loop/x": "too many",
	} {
		err := Check(filepath.Join(top, path), os.Geteuid())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// TestStranger: neither a folder of another user nor what is below it, nor a link of his, is trusted.
func TestStranger(t *testing.T) {
	top := t.TempDir()
	his, ours := filepath.Join(top, "his"), filepath.Join(top, "his", "ours")
	if err := os.MkdirAll(ours, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(top, "link")
	if err := os.Symlink("/usr", link); err != nil {
		t.Fatal(err)
	}
	stranger(t, link)
	caller := stranger(t, his)
	for _, path := range []string{his, ours, filepath.Join(ours, "new"), filepath.Join(link, "bin")} {
		if err := Check(path, caller); err == nil || !strings.Contains(err.Error(), "belongs to user") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
