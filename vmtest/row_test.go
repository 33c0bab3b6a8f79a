package vmtest_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// rowShort is how many commands TestCommandsInARow runs where STILE_SOAK does not say how many.
const rowShort = 20

// TestCommandsInARow runs STILE_SOAK short commands in one VM. What there is after the tenth there is after the last: here, which on a
// host with KVM is the VMM as well, and in the guest.
func TestCommandsInARow(t *testing.T) {
	commands := rowShort
	if text := os.Getenv("STILE_SOAK"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("STILE_SOAK: %v", err)
		}
		commands = max(n, rowShort)
	}
	t.Setenv("TMPDIR", t.TempDir())
	vm := vmtest.Shared(t, vmtest.Config{})
	var before left
	var guestBefore guestLeft
	for i := range commands {
		if i == rowShort/2 {
			guestBefore = countGuest(t, vm) // first: the VMM keeps a descriptor for each file that the guest knows
			before = countLeft(t)
		}
		want := fmt.Sprintf("in %d", i)
		cmd := vm.Command(t.Context(), "cat")
		cmd.Stdin = strings.NewReader(want)
		if out, err := cmd.Output(); string(out) != want || err != nil {
			t.Fatalf("command %d: %q, %v", i, out, err)
		}
	}
	guestAfter := countGuest(t, vm)
	after := settle(t, before)
	if after.more(before) {
		t.Errorf("after %d commands: %+v, after %d: %+v", commands, after, rowShort/2, before)
	}
	if guestAfter.processes > guestBefore.processes || guestAfter.descriptors > guestBefore.descriptors || guestAfter.kib > guestBefore.kib+agentSlack {
		t.Errorf("in the guest after %d commands: %+v, after %d: %+v", commands, guestAfter, rowShort/2, guestBefore)
	}
	t.Logf("after %d commands: %+v; in the guest %+v, after %d %+v", commands, after, guestAfter, rowShort/2, guestBefore)
}

// agentSlack is what the agent's memory may grow by, in KiB, before it collects garbage.
const agentSlack = 8 << 10

// guestLeft is what there is of the agent: its children, its descriptors, its memory.
type guestLeft struct{ processes, descriptors, kib int }

func countGuest(t *testing.T, vm *vmtest.VM) guestLeft {
	t.Helper()
	const script = "cat /proc/1/task/*/children | wc -w; ls /proc/1/fd | wc -l; sed -n 's/^VmRSS:\\(.*\\)kB/\\1/p' /proc/1/status"
	out, err := vm.Command(t.Context(), "sh", "-c", script).Output()
	var g guestLeft
	if err == nil {
		_, err = fmt.Sscan(string(out), &g.processes, &g.descriptors, &g.kib)
	}
	if err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return g
}
