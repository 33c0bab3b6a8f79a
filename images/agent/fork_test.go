package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNameHost(t *testing.T) {
	for _, test := range []struct{ name, before, after string }{
		{"empty", "", "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tstile\n"},
		{"other", "127.0.0.1 localhost\n10.0.0.1 stile.example.org # stile", "127.0.0.1 localhost\n10.0.0.1 stile.example.org # stile\n127.0.1.1\tstile\n"},
		{"there", "127.0.0.1 localhost stile\n", "127.0.0.1 localhost stile\n"},
	} {
		root := t.TempDir()
		path := filepath.Join(root, hostsFile)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if test.before != "" {
			if err := os.WriteFile(filepath.Join(root, "store"), []byte(test.before), 0o444); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../store", path); err != nil {
				t.Fatal(err)
			}
		}
		if err := nameHost(root, "stile"); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != test.after {
			t.Errorf("%s: %q, %v", test.name, text, err)
		}
		if text, _ := os.ReadFile(filepath.Join(root, "store")); string(text) != test.before {
			t.Errorf("%s: what the link leads to became %q", test.name, text)
		}
	}
}

// TestForkSurroundings: the mask and the limit are the child's alone.
func TestForkSurroundings(t *testing.T) {
	own := unix.Umask(0o022)
	unix.Umask(own)
	var inside int
	if _, err := withUmask(0o027, func() (int, error) {
		inside = unix.Umask(0o027)
		return 0, nil
	}); err != nil || inside != 0o027 {
		t.Errorf("the mask is %o, %v", inside, err)
	}
	if after := unix.Umask(own); after != own {
		t.Errorf("this process's mask became %o", after)
	}
	var before, during, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if _, err := withSoftFiles(func() (int, error) { return 0, unix.Getrlimit(unix.RLIMIT_NOFILE, &during) }); err != nil {
		t.Fatal(err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &after); err != nil || after != before || during.Cur != min(before.Cur, softFiles) || during.Max != before.Max {
		t.Errorf("the limit was %+v, then %+v, then %+v", before, during, after)
	}
}
