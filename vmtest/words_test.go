package vmtest

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// TestGoWords: a test's errors name what a test can set.
func TestGoWords(t *testing.T) {
	for text, want := range map[string]string{
		"open /dev/kvm: permission denied; --on lab runs without it":        "open /dev/kvm: permission denied; STILE_ON=lab runs without it",
		"the guest ran out of memory: -m gives it more":                     "the guest ran out of memory: Config.Memory gives it more",
		"did not start; --boot-timeout allows more":                         "did not start; Config.Timeout allows more",
		"stile image prune, x-m, /a/-m, --no-such and - are left alone":     "stile image prune, x-m, /a/-m, --no-such and - are left alone",
		"where to run (--on, STILE_ON) is \"x\": must be auto, host or lab": "where to run (STILE_ON, STILE_ON) is \"x\": must be auto, host or lab",
	} {
		err := inGo(errors.Join(errors.New(text), fs.ErrPermission))
		if got, _, _ := strings.Cut(err.Error(), "\n"); got != want || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestClosed: what uses a VM that the test has closed is told so.
func TestClosed(t *testing.T) {
	vm := processVM(t)
	vm.reason = func(err error) error { return errors.New("signal: killed") }
	cmd := vm.Command(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a command that ran": cmd.Wait(),
		"a command":          vm.Command(t.Context(), "true").Run(),
		"a file":             vm.WriteFile(t.Context(), "/tmp/x", nil, 0o600),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
