package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestHostView: what programs need below /run and /dev/shm is in a view of the host's root, where the guest has its own; mounted folders
// have the mode and the owner of the host's; and there are the file systems of a booted system.
func TestHostView(t *testing.T) {
	needGuests(t)
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root", "folders below /run are root's")
	}
	below := func(parent string) string {
		t.Helper()
		dir, err := os.MkdirTemp(parent, "stile-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	here, other, temporary, programs := below("/dev/shm"), below("/dev/shm"), below("/run"), t.TempDir()
	must(os.Chmod(here, 0o755))
	must(os.WriteFile(filepath.Join(here, "file"), []byte("of the working directory\n"), 0o644))
	must(os.Chmod(temporary, 0o777|os.ModeSticky))
	must(os.WriteFile(filepath.Join(temporary, "file"), []byte("of TMPDIR\n"), 0o644))
	must(os.WriteFile(filepath.Join(programs, "program"), []byte("#!/bin/sh\necho of a system below /run\n"), 0o755))
	system := filepath.Join("/run", filepath.Base(temporary)+"-system")
	must(os.Symlink(programs, system))
	t.Cleanup(func() { os.Remove(system) })
	open, closed := t.TempDir(), t.TempDir()
	must(os.Chmod(open, 0o777|os.ModeSticky))
	must(os.Chmod(closed, 0o700))
	must(os.Chown(closed, 1234, 1235))

	stile := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append([]string{"run"}, args...)...)
		cmd.Dir = here
		cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "PATH="+os.Getenv("PATH")+":"+system)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return string(out)
	}
	script := fmt.Sprintf(`cat file; cat %s/file; program; stat -c '%%a %%u %%g' /open /closed
		for f in /sys/fs/bpf /dev/mqueue; do stat -f -c %%T $f; done; stat -c %%a /dev/fuse; touch file %[1]s/file; ls /run/systemd /run/dbus 2>/dev/null`, temporary)
	got := stile("--cow", "/open="+open, "--cow", "/closed="+closed, "--", "sh", "-c", script+"; true")
	want := "of the working directory\nof TMPDIR\nof a system below /run\n1777 0 0\n700 1234 1235\nbpf_fs\nmqueue\n666\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := stile("--cwd", other, "--", "pwd"); got != other+"\n" {
		t.Errorf("--cwd %s: %q", other, got)
	}
	if got := stile("--env", "TMPDIR", "--user", "nobody", "--", "sh", "-c", "mktemp; TMPDIR=/tmp mktemp"); !strings.HasPrefix(got, temporary+"/") || !strings.Contains(got, "\n/tmp/") {
		t.Errorf("temporary files of nobody: %q", got)
	}
}
