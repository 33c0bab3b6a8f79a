package kmod_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/images/kmod"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestIndexesOfDebian compares the indexes of Debian's modules with what depmod makes of them.
func TestIndexesOfDebian(t *testing.T) {
	testenv.Short(t)
	c, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	k, err := distro.Fetch(t.Context(), c, "6.1", func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	ours, err := c.IndexedModules(t.Context(), k.Modules, k.Release, false)
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	theirs := filepath.Join(top, "lib/modules", k.Release)
	copy := exec.Command("sh", "-c", `mkdir -p "$2" && { cp -rl "$1/." "$2" 2>/dev/null || cp -r "$1/." "$2"; }`, "sh", k.Modules, theirs)
	if text, err := copy.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	kmod.Depmod(t, top, k.Release)
	kmod.SameIndexes(t, theirs, ours)
}
