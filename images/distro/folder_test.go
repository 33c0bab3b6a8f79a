package distro

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestOpen takes the layouts of installed systems and of unpacked packages, Debian's old and new ones.
func TestOpen(t *testing.T) {
	const v = "7.2.13+deb14-amd64"
	head := bzImageHead(v)
	for name, tt := range map[string]struct {
		files          []string
		image, modules string
		want           string // in the error
	}{
		"in boot":              {[]string{"boot/vmlinuz-" + v, "lib/modules/" + v + "/x"}, "boot/vmlinuz-" + v, "lib/modules/" + v, ""},
		"below usr":            {[]string{"boot/vmlinuz-" + v, "usr/lib/modules/" + v + "/x"}, "boot/vmlinuz-" + v, "usr/lib/modules/" + v, ""},
		"among modules":        {[]string{"lib/modules/" + v + "/vmlinuz"}, "lib/modules/" + v + "/vmlinuz", "lib/modules/" + v, ""},
		"among modules in usr": {[]string{"usr/lib/modules/" + v + "/vmlinuz"}, "usr/lib/modules/" + v + "/vmlinuz", "usr/lib/modules/" + v, ""},
		"in both":              {[]string{"boot/vmlinuz-" + v, "usr/lib/modules/" + v + "/vmlinuz"}, "boot/vmlinuz-" + v, "usr/lib/modules/" + v, ""},
		"two releases":         {[]string{"boot/vmlinuz-6.1", "usr/lib/modules/" + v + "/vmlinuz"}, "", "", "2 kernels"},
		"two among modules":    {[]string{"lib/modules/6.1/vmlinuz", "lib/modules/" + v + "/vmlinuz"}, "", "", "2 kernels"},
		"modules without one":  {[]string{"lib/modules/" + v + "/x"}, "", "", "0 kernels"},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "[a]*")
			files := make(map[string][]byte)
			for _, file := range tt.files {
				files[file] = head
			}
			writeAll(t, root, files)
			k, err := Open(root)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%+v, error %v, want one with %q", k, err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := (Kernel{Image: filepath.Join(root, tt.image), Modules: filepath.Join(root, tt.modules), Release: v}); *k != want {
				t.Errorf("got %+v, want %+v", *k, want)
			}
		})
	}
}

// TestModulesFolder takes a lib/modules/RELEASE with the kernel in it for that kernel, wherever it lies and whatever its name is.
func TestModulesFolder(t *testing.T) {
	root := t.TempDir()
	writeAll(t, root, map[string][]byte{
		"7.2-x/vmlinuz": bzImageHead("7.2-x"), "7.2-x/modules.order": nil, "7.2-x/build/Makefile": nil,
		"mods/vmlinuz": bzImageHead("7.2-x"), "mods/kernel/a.ko": nil,
		"6.9/vmlinuz": []byte("ELF"), "6.9/modules.builtin": nil,
		"bare/vmlinuz": bzImageHead("7.2-x"), "empty/modules.order": nil, "folder/vmlinuz/x": nil, "folder/kernel/x": nil, "other/x": nil,
	})
	in := func(path string) string { return filepath.Join(root, path) }
	for path, want := range map[string]*Kernel{
		"7.2-x":         {in("7.2-x/vmlinuz"), in("7.2-x"), in("7.2-x/build"), "7.2-x"},
		"7.2-x/vmlinuz": {in("7.2-x/vmlinuz"), in("7.2-x"), in("7.2-x/build"), "7.2-x"},
		"mods":          {in("mods/vmlinuz"), in("mods"), "", "7.2-x"},
		"6.9":           {in("6.9/vmlinuz"), in("6.9"), "", "6.9"},
		"6.9/vmlinuz":   {in("6.9/vmlinuz"), in("6.9"), "", "6.9"},
		"bare":          nil,
		"bare/vmlinuz":  {in("bare/vmlinuz"), "", "", "7.2-x"},
		"empty":         nil,
		"folder":        nil,
		"other":         nil,
	} {
		k, err := FromPath(in(path), "")
		if (err == nil) != (want != nil) || want != nil && *k != *want {
			t.Errorf("%s: %+v, %v, want %+v", path, k, err, want)
		}
	}
	if k, err := FromPath(in("7.2-x"), in("other")); err != nil || k.Image != in("7.2-x/vmlinuz") || k.Modules != in("other") {
		t.Errorf("with other modules: %+v, %v", k, err)
	}
	t.Chdir(in("7.2-x"))
	if k, err := FromFolder("."); err != nil || k.Release != "7.2-x" {
		t.Errorf("from inside: %+v, %v", k, err)
	}
}
