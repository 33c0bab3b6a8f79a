package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelNames(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "vmlinuz")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(dir, "7.2")
	if err := os.MkdirAll(filepath.Join(modules, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(modules, "vmlinuz"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "default", "host", "6.1", "6.12-cloud", "debian:6.12", "ubuntu:6.8", "linux-image-6.1.0-56-amd64", "7.2@sid", "debian:linux-image-amd64@sid", file, modules} {
		if err := (Spec{Kernel: name}).validateKernel(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"hosst":                      "or host",
		"fedora:6.1":                 "a version such as",
		dir:                          "neither",
		filepath.Join(dir, "absent"): "no such file",
	} {
		if err := (Spec{Kernel: name}).validateKernel(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	abs, err := Spec{Kernel: "debian:6.12"}.Absolute()
	if err != nil || abs.Kernel != "debian:6.12" {
		t.Errorf("Absolute makes %q of a package's version, %v", abs.Kernel, err)
	}
	if abs, err = (Spec{Kernel: "vmlinuz"}).Absolute(); err != nil || !filepath.IsAbs(abs.Kernel) {
		t.Errorf("Absolute leaves %q, %v", abs.Kernel, err)
	}
}
