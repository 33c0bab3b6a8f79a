package mdev_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestModuleOps: the module fills in every operation that the newest packaged kernel asks of a VFIO driver, and every parameter and
// table that its core leaves to the driver: what is left out is lost in silence.
func TestModuleOps(t *testing.T) {
	testenv.Short(t)
	cache, err := images.Open("")
	check(t, err)
	headers, err := distro.FetchHeaders(t.Context(), cache, newestKernel(t), func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "kernel-headers", err.Error())
	}
	source, err := os.ReadFile("kmod/vfio_mdev_pci.c")
	check(t, err)
	// An mdev that is hardware has no use of what the container tells those that pin pages.
	exempt := map[string]bool{"dma_unmap": true}
	ops := structOf(t, headers, "vfio.h", "vfio_device_ops")
	members := regexp.MustCompile(`\(\*(\w+)\)\(`).FindAllStringSubmatch(ops, -1)
	if len(members) < 10 {
		t.Fatalf("struct vfio_device_ops was not understood: %s", ops)
	}
	for _, m := range members {
		if !exempt[m[1]] && !regexp.MustCompile(`\n\t\.`+m[1]+`\s*=`).Match(source) {
			t.Errorf("the module sets no %s", m[1])
		}
	}
	core := structOf(t, headers, "vfio_pci_core.h", "vfio_pci_core_device")
	for _, field := range []string{"disable_idle_d3", "nointxmask", "disable_vga", "pci_ops"} {
		if strings.Contains(core, field) && !strings.Contains(string(source), "core->"+field+" =") {
			t.Errorf("the module does not set %s of its devices", field)
		}
	}
}

// structOf returns the text of a struct of a kernel's header. Debian keeps headers in two folders, of which one names the other.
func structOf(t *testing.T, headers, file, name string) string {
	t.Helper()
	paths := []string{filepath.Join(headers, "include/linux", file)}
	common, _ := filepath.Glob(filepath.Join(filepath.Dir(headers), "*-common", "include/linux", file))
	for _, path := range append(paths, common...) {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if found := regexp.MustCompile(`(?s)struct ` + name + ` \{.*?\n\};`).Find(text); found != nil {
			return string(found)
		}
	}
	t.Fatalf("no struct %s in %s", name, file)
	return ""
}
