package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFromFolder(t *testing.T) {
	write := func(dir, name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := FromFolder(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("an empty folder: %v", err)
	}

	dir := t.TempDir()
	write(dir, "include/config/kernel.release", "6.12.0-mine\n")
	if _, err := FromFolder(dir); err == nil || !strings.Contains(err.Error(), "make bzImage") {
		t.Errorf("a kernel that was configured only: %v", err)
	}
	write(dir, "vmlinux", "elf")
	k, err := FromFolder(dir)
	if err != nil || k.Release != "6.12.0-mine" || k.Image != filepath.Join(dir, "vmlinux") || k.Modules != "" || k.Headers != dir {
		t.Errorf("a vmlinux without modules: %+v, %v", k, err)
	}
	write(dir, "arch/x86/boot/bzImage", "bz")
	write(dir, "modules.order", "net/a.o\n")
	k, err = FromFolder(dir)
	if err != nil || k.Image != filepath.Join(dir, "arch/x86/boot/bzImage") || k.Modules != dir {
		t.Errorf("a bzImage with modules: %+v, %v", k, err)
	}

	unpacked := t.TempDir()
	write(unpacked, "boot/vmlinuz-6.1.0-9-amd64", "bz")
	write(unpacked, "lib/modules/6.1.0-9-amd64/modules.order", "")
	k, err = FromFolder(unpacked)
	if err != nil || k.Release != "6.1.0-9-amd64" || k.Modules == "" {
		t.Errorf("an unpacked package: %+v, %v", k, err)
	}
}
