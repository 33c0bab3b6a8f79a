package kbuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestModuleForBuiltKernel looks at a kernel that was built, in the user's cache, and builds a module against it that
// takes part in VFIO.
func TestModuleForBuiltKernel(t *testing.T) {
	testenv.Short(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	k, ok := Cached(cache, Options{Version: "6.12"})
	if !ok {
		testenv.Missing(t, "kernel-build", "no built kernel 6.12 in the cache, or its compiler is gone")
	}
	want := []string{"kvm_amd", "vfio_pci", "vfio_iommu_type1", "iommufd", "e1000e", "nvme", "mtty", "mdpy", "9p", "overlay", "virtio_console"}
	_, missing, err := images.ModuleClosure(k.Modules, want)
	if err != nil || len(missing) > 0 {
		t.Errorf("missing modules: %v, %v", missing, err)
	}
	if missing := Missing(t.Context()); len(missing) > 0 {
		testenv.Missing(t, "kernel-build", "programs that build modules are missing")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Kbuild": "obj-m := probe.o\n",
		"probe.c": "#include <linux/module.h>\n#include <linux/mdev.h>\n#include <linux/vfio_pci_core.h>\n" +
			"static struct mdev_driver d = { .driver.name = \"probe\" };\n" +
			"static int __init start(void) { return mdev_register_driver(&d); }\n" +
			"static void __exit stop(void) { mdev_unregister_driver(&d); }\n" +
			"module_init(start);\nmodule_exit(stop);\nMODULE_LICENSE(\"GPL\");\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", "-C", k.Headers, "M="+dir, "modules")
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "probe.ko")); err != nil {
		t.Error(err)
	}
}
