package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDepends(t *testing.T) {
	for field, want := range map[string][][]dependency{
		"":                                      nil,
		" , |":                                  nil,
		"kmod, linux-base (>= 4.12~) | xy:any":  {{{name: "kmod"}}, {{name: "linux-base"}, {name: "xy"}}},
		"linux-base-7.2 (= 1:7.2.13-1), bc(=2)": {{{name: "linux-base-7.2", version: "1:7.2.13-1"}}, {{name: "bc", version: "2"}}},
		"-o (= 1), ab [amd64] <x>":              {{{name: "ab"}}},
	} {
		if diff := cmp.Diff(want, parseDepends(field), cmp.AllowUnexported(dependency{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", field, diff)
		}
	}
}

func FuzzParseDepends(f *testing.F) {
	f.Add("kmod, linux-base (>= 4.12~) | x:any, y (= 1)")
	f.Fuzz(func(t *testing.T, field string) {
		for _, alternatives := range parseDepends(field) {
			for _, d := range alternatives {
				if !packageName.MatchString(d.name) || d.version != "" && !packageVersion.MatchString(d.version) {
					t.Errorf("%q: %+v", field, d)
				}
			}
		}
	})
}

// TestModulesPackage takes the modules from a package that the kernel's depends on, as Ubuntu has it.
func TestModulesPackage(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	all := kernelEntries("6.8.0-31-generic")
	all[5].name = "./usr" + strings.TrimPrefix(all[5].name, ".")
	f.add("", "linux-image-6.8.0-31-generic", "6.8", "kmod, linux-base (>= 4.5) | x, linux-modules-6.8.0-31-generic", makeDeb(t, ".zst", all[:5]...))
	f.add("", "linux-modules-6.8.0-31-generic", "6.8", "", makeDeb(t, ".zst", all[5:]...))
	k, err := Fetch(t.Context(), c, "6.8", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(k.Modules, "kernel/fs/9p/9p.ko")); err != nil {
		t.Error(err)
	}
}

// addSplit makes a kernel known as Debian has it since 2026: nothing in its own package, its file, its modules and what is
// common to both in three others. where is as for add.
func addSplit(t *testing.T, f *fakeApt, where, release, version string) {
	t.Helper()
	needs := func(parts ...string) string {
		list := "kmod, initramfs-tools | dracut"
		for _, part := range parts {
			list += ", linux-" + part + "-" + release + " (= " + version + ")"
		}
		return list
	}
	lib := "./usr/lib/modules/" + release + "/"
	add := func(part, depends string, entries ...entry) {
		f.add(where, "linux-"+part+"-"+release, version, depends, makeDeb(t, ".xz", entries...))
	}
	add("image", needs("base", "binary", "modules"), entry{name: "./usr/share/bug/x", link: "y"})
	add("binary", needs("base"), entry{name: lib + "vmlinuz", text: string(bzImageHead(release))})
	add("modules", needs("base"), entry{name: lib + "kernel/fs/9p/9p.ko.xz", text: "module"})
	add("base", "", entry{name: lib + "modules.builtin", text: "kernel/drivers/virtio/virtio_pci.ko\n"},
		entry{name: lib + "modules.order", text: "kernel/fs/9p/9p.ko\n"}, entry{name: lib + "config", text: "CONFIG_PCI=y\n"})
	// A newer build of the parts, which does not belong to this one.
	for _, part := range []string{"binary", "modules", "base"} {
		f.write(filepath.Join(where, "records", "linux-"+part+"-"+release), []byte("Version: "+version+"+b1\n"))
	}
}

// TestSplitPackages makes one kernel of the packages that Debian has split it into, by its version and by the name of the
// package that always stands for the newest.
func TestSplitPackages(t *testing.T) {
	const release = "7.2.13+deb14-amd64"
	f, c := newFakeApt(t), openCache(t)
	addSplit(t, f, "", release, "7.2.13-1")
	f.add("", "linux-image-amd64", "7.2.13-1", "linux-image-"+release+" (= 7.2.13-1)", makeDeb(t, ".xz", entry{name: "./usr/share/doc/x", text: "x"}))
	for _, version := range []string{"7.2", "debian:7.2", "linux-image-" + release, "linux-image-amd64"} {
		k, err := Fetch(t.Context(), c, version, func(what string) { t.Log(what) })
		if err != nil {
			t.Fatal(err)
		}
		if k.Release != release || k.Image != filepath.Join(k.Modules, "vmlinuz") || imageRelease(k.Image) != release {
			t.Errorf("%s: %+v", version, k)
		}
		for _, name := range []string{"kernel/fs/9p/9p.ko.xz", "modules.builtin", "modules.order", "config"} {
			if _, err := os.Stat(filepath.Join(k.Modules, name)); err != nil {
				t.Errorf("%s: %v", version, err)
			}
		}
		if again, ok := Lookup(c, version); !ok || *again != *k {
			t.Errorf("%s: looked up %+v", version, again)
		}
	}
	if got := cachedKernels(t, c); len(got) != 2 {
		t.Errorf("in the cache: %q", got)
	}
}

func TestIncompleteSplit(t *testing.T) {
	const release = "7.2.13+deb14-amd64"
	for part, want := range map[string]string{
		"modules": "depends on linux-modules-" + release + " 7.2.13-1, which apt does not have",
		"binary":  "depends on linux-binary-" + release + " 7.2.13-1, which apt does not have",
	} {
		f, c := newFakeApt(t), openCache(t)
		addSplit(t, f, "", release, "7.2.13-1")
		if err := os.Remove(filepath.Join(f.dir, "records", "linux-"+part+"-"+release+"=7.2.13-1")); err != nil {
			t.Fatal(err)
		}
		_, err := Fetch(t.Context(), c, "7.2", nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: error %v, want one with %q", part, err, want)
		}
		if got := cachedKernels(t, c); len(got) > 0 {
			t.Errorf("in the cache: %q", got)
		}
	}
}
