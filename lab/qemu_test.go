package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		out  string
		want Version
		ok   bool
	}{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n", Version{7, 2, 22}, true},
		{"QEMU emulator version 10.0.2 (qemu-10.0.2-1.fc42)\n", Version{10, 0, 2}, true},
		{"QEMU emulator version 9.1.0-rc1", Version{9, 1, 0}, true},
		{"QEMU emulator version 8.2", Version{8, 2, 0}, true},
		{"QEMU emulator version 7.2.92.1 (v8)\n", Version{7, 2, 92}, true},
		{"QEMU emulator version ", Version{}, false},
		{"QEMU emulator version x.y", Version{}, false},
		{"QEMU emulator version 99999999.1", Version{}, false},
		{"QEMU emulator version 7", Version{}, false},
		{"bash: qemu: not found", Version{}, false},
		{"", Version{}, false},
	} {
		got, err := parseVersion(tt.out)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("parseVersion(%q) = %v, %v; want %v, ok %v", tt.out, got, err, tt.want, tt.ok)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	ascending := []Version{{6, 9, 9}, {7, 1, 50}, {7, 2, 0}, {7, 2, 1}, {8, 0, 0}, {10, 0, 0}}
	for i, v := range ascending {
		for j, w := range ascending {
			if v.less(w) != (i < j) {
				t.Errorf("%v.less(%v) = %v", v, w, v.less(w))
			}
		}
	}
}

// script makes an executable that stands for QEMU.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOldQEMUIsRefused(t *testing.T) {
	t.Setenv(EnvQEMU, script(t, `echo "QEMU emulator version 6.2.0 (Debian)"`))
	q, err := FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	_, err = q.Version(t.Context())
	var none *NoQEMUError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "6.2.0") || !strings.Contains(err.Error(), "7.2 or later") {
		t.Errorf("%v", err)
	}
}

// TestQEMUSays: what a wrapper says when it fails is the reason.
func TestQEMUSays(t *testing.T) {
	q, err := openQEMU(script(t, `echo "wrapper: no such profile" >&2; exit 9`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 9: it said: wrapper: no such profile") {
		t.Errorf("%v", err)
	}
}

func TestQEMUIsFound(t *testing.T) {
	path := script(t, `echo "QEMU emulator version 8.2.1"`)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvQEMU, link)
	q, err := FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	if q.Path != path {
		t.Errorf("path %s, want %s", q.Path, path)
	}
	if v, err := q.Version(t.Context()); err != nil || v != (Version{8, 2, 1}) {
		t.Errorf("version %v, %v", v, err)
	}
	first := q.Identity
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho another\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if q, err = FindQEMU(); err != nil || q.Identity == first {
		t.Errorf("identity of a changed binary %v, %v", q, err)
	}
}

func TestQEMUIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvQEMU, "")
	var none *NoQEMUError
	_, err := FindQEMU()
	if !errors.As(err, &none) || !strings.Contains(err.Error(), EnvQEMU) {
		t.Errorf("%v, want a NoQEMUError", err)
	}
	// One that is installed is not to be installed again.
	if none != nil && none.Found != "" && (none.Remedy != "" || !strings.Contains(err.Error(), "add "+filepath.Dir(none.Found)+" to PATH")) {
		t.Errorf("%v, want it to name %s", err, none.Found)
	}
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/bin"} {
		path := filepath.Join(dir, qemuName)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		t.Setenv("PATH", "")
		if q, err := FindQEMU(); err != nil || filepath.Base(q.Path) != qemuName {
			t.Errorf("without PATH: %+v, %v, want %s", q, err, path)
		}
		break
	}
	t.Setenv(EnvQEMU, "/no/such/qemu")
	if _, err := FindQEMU(); err == nil || !strings.Contains(err.Error(), "STILE_QEMU=/no/such/qemu") {
		t.Errorf("%v, want it to name the variable", err)
	}
}

func TestInstallCommand(t *testing.T) {
	for _, tt := range []struct{ release, want string }{
		{"PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", "apt-get install --no-install-recommends qemu-system-x86"},
		{"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install --no-install-recommends qemu-system-x86"},
		{"ID=fedora\n", "dnf install qemu-system-x86-core"},
		{"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install qemu-system-x86-core"},
		{"ID=arch\n", "pacman -S qemu-system-x86"},
		{"ID=alpine\n", "apk add qemu-system-x86_64"},
		{"ID='opensuse-tumbleweed'\nID_LIKE='opensuse suse'\n", "zypper install qemu-x86"},
		{"ID=plan9\n", ""},
		{"", ""},
	} {
		if got := installCommand([]byte(tt.release)); got != tt.want {
			t.Errorf("installCommand(%q) = %q, want %q", tt.release, got, tt.want)
		}
	}
}
