package vmtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// envFailing has the tests below fail as TestFailure expects it.
const envFailing = "STILE_TEST_FAILING"

// TestFailing fails with a VM that has died.
func TestFailing(t *testing.T) {
	path := os.Getenv(envFailing)
	if path == "" {
		return
	}
	vm := processVM(t)
	vm.log = func() []byte { return []byte("last words") }
	vm.logPath = path
	vm.reason = func(error) error { return errors.New("the guest's kernel panicked: x") }
	vm.endWith(t)
	if err := vm.session.Close(); err != nil {
		t.Fatal(err)
	}
	t.Error(vm.Command(t.Context(), "true").Run())
}

// TestUnknownKernel names kernels for a table, of which one can't be.
func TestUnknownKernel(t *testing.T) {
	if os.Getenv(envFailing) != "" {
		if got := Kernels(t, "default", "host"); len(got) != 2 { // they are there, and nothing is fetched
			t.Fatalf("kernels %q", got)
		}
		Kernels(t, "six")
	}
}

// TestFailure: a test that fails says why its VM ended, the end of the kernel's log and where all of that is.
func TestFailure(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("all words"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := func(args ...string) string {
		cmd := exec.Command(self, append(args, "-test.run=^(TestFailing|TestUnknownKernel)$", "-test.v")...)
		cmd.Env = append(os.Environ(), envFailing+"="+log, "TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Error("the failing tests passed")
		}
		return string(out)
	}
	for _, want := range []string{
		"the VM had ended: the guest's kernel panicked: x", "the kernel log's end:\n", "last words", "the whole kernel log: " + log,
		"--- FAIL: TestUnknownKernel", "Config.Kernel takes a file, a folder where a kernel was built, a lib/modules/RELEASE that holds one, a version such as 6.12, or host",
	} {
		if out := said(); !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	dir := t.TempDir()
	out := said("-test.artifacts", "-test.outputdir="+dir)
	_, after, _ := strings.Cut(out, "the whole kernel log: ")
	path, _, _ := strings.Cut(after, "\n")
	if kept, err := os.ReadFile(path); err != nil || string(kept) != "all words" || !strings.HasPrefix(path, dir) {
		t.Errorf("the artifact is %q, %v: %s", kept, err, out)
	}
}
