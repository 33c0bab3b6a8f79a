package vmtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// newestKernel is the newest that Debian has packaged, whichever suite this system is.
const newestKernel = "linux-image-amd64@sid"

// newest returns that kernel, and skips a test that make soak does not run.
func newest(t *testing.T) *distro.Kernel {
	t.Helper()
	if !testenv.Soak() {
		testenv.Missing(t, "time", "STILE_SOAK is not set")
	}
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	k, err := distro.Fetch(t.Context(), cache, newestKernel, func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "newest-kernel", err.Error())
	}
	return k
}

// TestNewNames: a name that a guest of the newest kernel has not found is found once it is there, also in a folder that is cached.
func TestNewNames(t *testing.T) {
	k := newest(t)
	// The modules are one share, and the folder that they are in is another, which the guest changes.
	dir := t.TempDir()
	modules := filepath.Join(dir, k.Release)
	if err := os.CopyFS(modules, os.DirFS(k.Modules)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(modules, "modules.dep.bin"), nil, 0o644); err != nil { // it has an index
		t.Fatal(err)
	}
	vm := vmtest.Start(t, vmtest.Config{
		Kernel: modules, Root: "none", Folders: []vmtest.Folder{{Host: dir, Guest: "/changed", Mode: "rw"}},
	})
	name := filepath.Join("/lib/modules", k.Release, "new")
	if text, err := vm.ReadFile(t.Context(), name); err == nil {
		t.Fatalf("it is there before it was made: %q", text)
	}
	if err := vm.WriteFile(t.Context(), filepath.Join("/changed", k.Release, "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := vm.ReadFile(t.Context(), name); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestLinksWithoutSize: a symbolic link for whose length the host says 0 has its whole target in a guest of the newest kernel, which
// reads no more than the length that it has been given where it caches for good, as below a folder of mode cow.
func TestLinksWithoutSize(t *testing.T) {
	k := newest(t)
	const want = "some/where"
	dir := testenv.MountLink(t, want, 0)
	vm := vmtest.Start(t, vmtest.Config{
		Kernel: k.Image, Modules: k.Modules, Memory: 512 << 20, Folders: []vmtest.Folder{{Host: dir, Guest: "/links", Mode: "cow"}},
	})
	if got, err := vm.Command(t.Context(), "readlink", "/links/link").Output(); err != nil || string(got) != want+"\n" {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
