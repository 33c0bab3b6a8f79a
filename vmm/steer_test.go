package vmm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmm"
)

// TestSteerRefuses asks a VM for what it can't do: each refusal has a reason, and changes nothing.
func TestSteerRefuses(t *testing.T) {
	testenv.KVM(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	image := func(o disk.Options) vmm.Disk {
		if o.Path = path; !o.ReadOnly && !o.COW {
			o.Path = path + "2"
		}
		return vmm.Disk{Options: o}
	}
	if err := os.WriteFile(path+"2", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	vm, err := vmm.New(t.Context(), vmm.Config{
		Kernel: microKernel(t, spin), Memory: 32 << 20, Balloon: true,
		Disks: []vmm.Disk{image(disk.Options{}), image(disk.Options{ReadOnly: true}), image(disk.Options{COW: true})},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"smaller", vm.ResizeDisk(0, 1<<19, false), "disk2: resize from 1048576 to 524288 bytes: what is behind the new end would be lost"},
		{"half a sector", vm.ResizeDisk(0, 1<<20+100, false), "must be a multiple of 512"},
		{"read-only", vm.ResizeDisk(1, 1<<21, false), "disk: resize: disk is read-only"},
		{"changes thrown away", vm.ResizeDisk(2, 1<<21, false), "(cow) keeps its size"},
		{"no such disk", vm.ResizeDisk(3, 1<<21, false), "there is no disk 3: the VM has 3"},
		{"more than all memory", vm.SetBalloon(1 << 30), "can't give 1G, it has 32M"},
		{"no driver", vm.SetBalloon(1 << 20), "has not loaded a driver for it (virtio_balloon)"},
	} {
		if test.err == nil || !strings.Contains(test.err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", test.name, test.err, test.want)
		}
	}
	if b, ok := vm.Balloon(); !ok || b.Target != 0 {
		t.Errorf("balloon %+v, %t", b, ok)
	}
	for i := range 3 {
		if got := vm.DiskSize(i); got != 1<<20 {
			t.Errorf("disk %d has %d bytes", i, got)
		}
	}
	if err := vm.ResizeDisk(0, 1<<19, false); !errors.Is(err, virtio.ErrShrinks) {
		t.Errorf("%v", err)
	}
	if err := vm.ResizeDisk(0, 1<<19, true); err != nil || vm.DiskSize(0) != 1<<19 {
		t.Errorf("smaller, as was asked: %d bytes, %v", vm.DiskSize(0), err)
	}
	if info, err := os.Stat(path + "2"); err != nil || info.Size() != 1<<19 {
		t.Errorf("the image: %v, %v", info, err)
	}
}
