package mdev_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestDenylist: what the module refuses is what stile explains.
func TestDenylist(t *testing.T) {
	dir := t.TempDir()
	header, err := filepath.Abs("kmod/denylist.h")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "list.c"), []byte(`#include <stdio.h>
#include "`+header+`"
int main(void)
{
	for (unsigned v = 0x8000; v < 0x8100; v++)
		for (unsigned d = 0; d < 0x10000; d++)
			if (mp_in_denylist(v, d))
				printf("%04x:%04x\n", v, d);
}
`), 0o644))
	program := filepath.Join(dir, "list")
	if out, err := exec.CommandContext(t.Context(), "cc", "-Wall", "-Werror", "-o", program, filepath.Join(dir, "list.c")).CombinedOutput(); err != nil {
		testenv.Missing(t, "cc", string(out)+err.Error())
	}
	out, err := exec.CommandContext(t.Context(), program).Output()
	check(t, err)
	var want []string
	for _, id := range hostpci.DeniedIDs() {
		want = append(want, id.String())
	}
	slices.Sort(want)
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("the module refuses %v, stile explains %v", got, want)
	}
}
