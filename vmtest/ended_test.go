package vmtest_test

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// TestGuestEndsItself: a command in a guest that powers off or reboots returns that it did.
func TestGuestEndsItself(t *testing.T) {
	for command, want := range map[string]string{"o": "powered itself off", "b": "reset itself"} {
		vm := vmtest.Start(t, vmtest.Config{})
		err := vm.Command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo "+command+" >/proc/sysrq-trigger; sleep 100").Run()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want: %s", err, want)
		}
	}
}
