package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bzImageHead makes the start of a bzImage that names its release.
func bzImageHead(release string) []byte {
	head := make([]byte, 0x400)
	copy(head[setupMagicAt:], setupMagic)
	head[kernelVersionAt], head[kernelVersionAt+1] = 0x00, 0x01 // from 0x200 on
	copy(head[0x300:], release+" (builder) #1 SMP\x00")
	return head
}

func writeAll(t testing.TB, root string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHost(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string][]byte
		image string
		want  string // in the error
	}{
		"Debian":        {map[string][]byte{"lib/modules/6.9/x": nil, "boot/vmlinuz-6.9": bzImageHead("6.9")}, "boot/vmlinuz-6.9", ""},
		"Fedora":        {map[string][]byte{"lib/modules/6.9/vmlinuz": bzImageHead("6.9")}, "lib/modules/6.9/vmlinuz", ""},
		"Arch":          {map[string][]byte{"lib/modules/6.9/x": nil, "boot/vmlinuz-linux": bzImageHead("6.9")}, "boot/vmlinuz-linux", ""},
		"updated since": {map[string][]byte{"lib/modules/6.9/x": nil, "boot/vmlinuz-linux": bzImageHead("6.10")}, "", "is a kernel 6.10"},
		"Debian, split": {map[string][]byte{"usr/lib/modules/6.9/vmlinuz": bzImageHead("6.9")}, "usr/lib/modules/6.9/vmlinuz", ""},
		"no file":       {map[string][]byte{"lib/modules/6.9/x": nil}, "", "not found"},
		"no modules":    {map[string][]byte{"boot/vmlinuz-6.9": bzImageHead("6.9")}, "", "no /lib/modules/6.9"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			writeAll(t, root, tt.files)
			k, err := host(root, "6.9")
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%+v, error %v, want one with %q", k, err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := (Kernel{Image: filepath.Join(root, tt.image), Modules: modulesBelow(root, "6.9"), Release: "6.9"}); *k != want {
				t.Errorf("got %+v, want %+v", *k, want)
			}
		})
	}
}

func TestFromPath(t *testing.T) {
	root := t.TempDir()
	writeAll(t, root, map[string][]byte{
		"boot/vmlinuz-6.9": []byte("ELF"), "boot/bzImage": bzImageHead("6.10-own"), "lib/modules/6.9/build/Makefile": nil, "mods/x": nil,
	})
	in := func(path string) string { return filepath.Join(root, path) }
	for _, tt := range []struct {
		image, modules string
		want           *Kernel
	}{
		{in("boot/vmlinuz-6.9"), "", &Kernel{in("boot/vmlinuz-6.9"), in("lib/modules/6.9"), in("lib/modules/6.9/build"), "6.9"}},
		{in("boot/bzImage"), in("mods"), &Kernel{in("boot/bzImage"), in("mods"), "", "6.10-own"}},
		{in("boot/bzImage"), "", &Kernel{in("boot/bzImage"), "", "", "6.10-own"}},
		{in("boot/bzImage"), in("none"), nil},
		{in("boot/bzImage"), in("mods/x"), nil},
		{in("none"), "", nil},
		{in("boot"), "", nil},
	} {
		k, err := FromPath(tt.image, tt.modules)
		if (err == nil) != (tt.want != nil) || tt.want != nil && *k != *tt.want {
			t.Errorf("%s, %s: %+v, %v", tt.image, tt.modules, k, err)
		}
	}
}

func FuzzHeaderRelease(f *testing.F) {
	f.Add(bzImageHead("6.1"))
	f.Add(bzImageHead("6.1")[:0x301])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, head []byte) {
		if release := headerRelease(head); strings.ContainsAny(release, " \x00") {
			t.Errorf("release %q", release)
		}
	})
}
