package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/bytejson"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

func TestMain(m *testing.M) {
	images.MaybeUnpack() // this binary is its own child
	os.Exit(m.Run())
}

// TestLabImageIsCurrent changes a module that a saved nested host has loaded. Its path, name, size and time stay.
func TestLabImageIsCurrent(t *testing.T) {
	dir := t.TempDir()
	kernel, modules := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "modules")
	must, _ := images.LabModules(false)
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(kernel, "kernel")
	write(filepath.Join(modules, "modules.builtin"), strings.Join(must[1:], ".ko\n")+".ko\n")
	write(filepath.Join(modules, "modules.dep"), must[0]+".ko:\n")
	module := filepath.Join(modules, must[0]+".ko")
	write(module, "old")
	cache, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id := func() string {
		t.Helper()
		image, _, err := labImage(t.Context(), cache, LabSpec{Kernel: kernel, Modules: modules}, &lab.Topology{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return image.ID
	}
	first := id()
	if again := id(); again != first {
		t.Errorf("the same image is %s and %s", first, again)
	}
	info, err := os.Stat(module)
	if err != nil {
		t.Fatal(err)
	}
	write(module, "new")
	if err := os.Chtimes(module, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if again := id(); again == first {
		t.Error("another module has the same image")
	}
}

// TestWorkerSpecOfBytes: no path of what a worker in the nested host is given has to be text.
func TestWorkerSpecOfBytes(t *testing.T) {
	const name = "/a\xff\x80ü"
	s := Spec{
		Command: []string{name}, Kernel: name, Modules: name, Initramfs: []string{name}, Append: []string{name}, Root: name, Scratch: name,
		Folders: []Folder{{Mode: FolderRW, Host: name, Guest: name}}, Disks: []vmm.Disk{{Options: disk.Options{Path: name}}}, Vsock: &vmm.Vsock{Path: name},
	}
	text, err := bytejson.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got Spec
	if err := bytejson.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
}
