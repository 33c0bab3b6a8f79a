package vmtest

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestFaults has a guest's kernel print a warning and an oops. The command that brings it to that ends well, and the VM says so at its end.
func TestFaults(t *testing.T) {
	testenv.Short(t)
	vm, err := start(t.Context(), t.Name(), Config{})
	check(t, err)
	const said = `echo "<4>WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2" >/dev/kmsg; echo "<1>BUG: unable to handle page fault" >/dev/kmsg`
	if out, err := vm.Command(t.Context(), "sh", "-c", said).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := vm.Close(); err == nil || !strings.Contains(err.Error(), "reported a fault (oops): BUG: unable to handle page fault") {
		t.Errorf("the VM ends with %v", err)
	}
	faults := vm.Faults()
	if len(faults) != 2 || faults[0].Kind != "warning" || faults[1].Kind != "oops" || faults[1].Time <= 0 {
		t.Errorf("%+v", faults)
	}
}
