package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDrivers(t *testing.T) {
	bus := t.TempDir()
	g := &guest{}
	if err := g.checkDrivers(filepath.Join(bus, "absent")); err != nil {
		t.Errorf("without sysfs: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(bus, "pci/drivers/virtio-pci"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.checkDrivers(bus); err == nil || !strings.Contains(err.Error(), "no driver virtio_console, neither") || !strings.Contains(err.Error(), "--modules") {
		t.Errorf("without modules: %v", err)
	}
	g.modules.failed("/modules/9p.ko", unix.ENOEXEC)
	g.modules.failed("/modules/virtio_console.ko", unix.ENOEXEC)
	if err := g.checkDrivers(bus); err == nil || !strings.Contains(err.Error(), "2 of 2 modules were refused, 9p.ko first: they were built for another kernel") {
		t.Errorf("with others' modules: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(bus, "virtio/drivers/virtio_console"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.checkDrivers(bus); err != nil {
		t.Error(err)
	}
	err := g.blameModules(missing("9p", unix.ENODEV))
	if err == nil || !strings.Contains(err.Error(), "no 9p") || !strings.Contains(err.Error(), "vermagic") || !errors.Is(err, unix.ENODEV) {
		t.Errorf("of a mount: %v", err)
	}
	if err := g.blameModules(fmt.Errorf("mount: %w", unix.EPERM)); strings.Contains(err.Error(), "modules") {
		t.Errorf("of another error: %v", err)
	}
}

func TestPartitions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"vda/vda1/partition", "vda/vda2/partition", "vda/queue/x", "vdb/size"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := partitions(dir, "/dev/vda"); !slices.Equal(got, []string{"vda1", "vda2"}) {
		t.Errorf("%q", got)
	}
	if got := partitions(dir, "/dev/vdb"); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
