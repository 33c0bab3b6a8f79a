package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
)

// TestInputsCount: the go command runs a test again when a file outside of the module, of which its VM was made, has changed, and not before.
func TestInputsCount(t *testing.T) {
	module, outside := t.TempDir(), t.TempDir()
	kernel, folder := filepath.Join(outside, "bzImage"), filepath.Join(outside, "folder")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour) // the go command does not trust what has just been written
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Dir(name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	write(kernel, "1")
	write(filepath.Join(folder, "a"), "1")
	write(filepath.Join(module, "go.mod"), "module example.org/m\n")
	t.Chdir(module)
	t.Setenv("PWD", module)
	var looks strings.Builder
	for _, name := range []string{nameInModule(moduleRoot(), kernel), nameInModule(moduleRoot(), folder)} {
		fmt.Fprintf(&looks, "\tos.Stat(%q)\n\tif f, err := os.Open(%[1]q); err == nil { f.Close() }\n", name)
	}
	write(filepath.Join(module, "m_test.go"), "package m\nimport (\"os\"; \"testing\")\nfunc TestM(*testing.T) {\n"+looks.String()+"}\n")
	cached := func() bool {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", "test", ".")
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Contains(string(out), "(cached)")
	}
	cached()
	if !cached() {
		t.Error("nothing has changed, and the test runs again")
	}
	write(kernel, "22")
	if cached() {
		t.Error("the kernel has changed, and the test does not run again")
	}
	if !cached() {
		t.Error("nothing has changed since, and the test runs again")
	}
	write(filepath.Join(folder, "b"), "1")
	if cached() {
		t.Error("the folder has changed, and the test does not run again")
	}
}

// TestLogInputs: the log of a test binary that ran in the VM has what that is made of.
func TestLogInputs(t *testing.T) {
	dir := t.TempDir()
	log, kernel, disk := filepath.Join(dir, "testlog.txt"), filepath.Join(dir, "bzImage"), filepath.Join(dir, "disk")
	for _, name := range []string{log, kernel} {
		if err := os.WriteFile(name, []byte("# test log\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var image Disk
	image.Path = disk
	s := Config{Kernel: kernel, Disks: []Disk{image}, Folders: []Folder{{Host: dir, Guest: "/x", Mode: guest.FolderRO}}}.spec()
	if err := logInputs(t.Context(), s, []string{"-test.testlogfile=" + log, "-test.v"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# test log\nstat " + moduleRoot() + "/..", "/.." + kernel + "\n", "/.." + disk + "\n", "open " + nameInModule(moduleRoot(), dir) + "\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if err := logInputs(t.Context(), s, nil); err != nil {
		t.Errorf("without a log: %v", err)
	}
}
