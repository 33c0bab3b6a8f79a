// Package commands shows a VM that is used like os/exec.
package commands

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

func TestCommands(t *testing.T) {
	vm := vmtest.Start(t, vmtest.Config{})
	out, err := vm.Command(t.Context(), "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != vm.Kernel() {
		t.Errorf("uname says %s, the VM %s", got, vm.Kernel())
	}
	if err := vm.WriteFile(t.Context(), "/etc/motd", []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := vm.Command(t.Context(), "cat", "/etc/motd").Output(); err != nil || string(text) != "hello\n" {
		t.Errorf("%q, %v", text, err)
	}
}
