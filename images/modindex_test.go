package images

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/images/kmod"
)

// TestIndexedModules has modules as a package holds them, where a kernel was built, and where depmod has run.
func TestIndexedModules(t *testing.T) {
	const release = "6.1.0-test"
	installed := t.TempDir()
	writeFile(t, filepath.Join(installed, "kernel/net/a.ko"), []byte("a"))
	writeFile(t, filepath.Join(installed, "modules.builtin"), []byte("kernel/fs/b.ko\n"))
	built := t.TempDir()
	writeFile(t, filepath.Join(built, "include/config/kernel.release"), []byte(release+"\n"))
	writeFile(t, filepath.Join(built, "modules.order"), []byte("net/a.o\nfs/c.ko\n"))
	writeFile(t, filepath.Join(built, "net/a.ko"), []byte("a"))
	writeFile(t, filepath.Join(built, "fs/c.ko"), []byte("c"))
	writeFile(t, filepath.Join(built, "fs/left-over.ko"), []byte("not of this build"))
	indexed := t.TempDir()
	writeFile(t, filepath.Join(indexed, kmod.DepIndex), []byte("depmod was here"))

	c, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	index := func(dir string) string {
		t.Helper()
		got, err := c.IndexedModules(t.Context(), dir, release, false)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := index(indexed); got != indexed {
		t.Errorf("modules with an index are taken from %s", got)
	}
	for _, tree := range []struct {
		dir   string
		files []string
	}{
		{installed, []string{"kernel/net/a.ko", "modules.builtin", kmod.DepIndex, kmod.DevnameList}},
		{built, []string{"kernel/net/a.ko", "kernel/fs/c.ko", "modules.order", kmod.DepIndex, kmod.DevnameList}},
	} {
		got := index(tree.dir)
		if filepath.Base(got) != release {
			t.Errorf("the folder is %s: modprobe looks for %s", got, release)
		}
		for _, name := range tree.files {
			if _, err := os.Stat(filepath.Join(got, name)); err != nil {
				t.Error(err)
			}
		}
	}
	first := index(built)
	if _, err := os.Stat(filepath.Join(first, "kernel/fs/left-over.ko")); err == nil {
		t.Error("a module that the build did not make is there")
	}
	if again := index(built); again != first {
		t.Errorf("the same modules are in %s and %s", first, again)
	}
	writeFile(t, filepath.Join(built, "net/a.ko"), []byte("built anew"))
	if again := index(built); again == first {
		t.Error("modules that were built anew are not taken")
	}
	if err := os.Remove(filepath.Join(built, "net/a.ko")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.IndexedModules(t.Context(), built, release, false); err == nil {
		t.Error("a build that lacks a module is taken")
	}
}

// TestIndexedModulesAreCurrent changes, one by one, what a copy of modules is made from.
func TestIndexedModulesAreCurrent(t *testing.T) {
	dir, c := t.TempDir(), openTest(t)
	writeFile(t, filepath.Join(dir, "kernel/net/a.ko"), []byte("a"))
	seen := make(map[string]string)
	step := func(change string) string {
		t.Helper()
		got, err := c.IndexedModules(t.Context(), dir, "6.1.0-test", false)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[got]; ok {
			t.Errorf("%s: the copy is the one of %q", change, before)
		}
		seen[got] = change
		return got
	}
	step("no lists")
	for _, list := range moduleLists() {
		writeFile(t, filepath.Join(dir, list), []byte("kernel/fs/9p/9p.ko\n"))
		got := step(list + " is added")
		if text, err := os.ReadFile(filepath.Join(got, list)); err != nil || len(text) == 0 {
			t.Errorf("%s in the copy: %q, %v", list, text, err)
		}
		writeFile(t, filepath.Join(dir, list), []byte("kernel/fs/9p/9p.ko\nkernel/net/9p.ko\n"))
		step(list + " has changed")
	}
	path := filepath.Join(dir, "kernel/net/a.ko")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	other := writeFile(t, path+".new", []byte("b")) // the same size and time, as an archive may have it
	if err := errors.Join(os.Chtimes(other, info.ModTime(), info.ModTime()), os.Rename(other, path)); err != nil {
		t.Fatal(err)
	}
	step("another module of the same size and time")
}

// TestIndexedModulesInNestedHost sees that a copy is found where inodes have other numbers, and only there.
func TestIndexedModulesInNestedHost(t *testing.T) {
	c, dir := openTest(t), t.TempDir()
	module := filepath.Join(dir, "kernel", "a.ko")
	writeFile(t, module, []byte("a module"))
	made, err := c.IndexedModules(t.Context(), dir, "6.1.0-test", false)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(module)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, module+".new", []byte("b module"))
	if err := errors.Join(os.Chtimes(module+".new", info.ModTime(), info.ModTime()), os.Rename(module+".new", module)); err != nil {
		t.Fatal(err)
	}
	if nested, err := c.IndexedModules(t.Context(), dir, "6.1.0-test", true); err != nil || nested != made {
		t.Errorf("the nested host gets %s, %v; made was %s", nested, err, made)
	}
	if outside, err := c.IndexedModules(t.Context(), dir, "6.1.0-test", false); err != nil || outside == made {
		t.Errorf("outside, another module is taken for the old one: %s, %v", outside, err)
	}
}
