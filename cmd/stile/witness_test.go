package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// envCloudHypervisor names Cloud Hypervisor's program, where it is not in PATH.
const envCloudHypervisor = "STILE_CLOUD_HYPERVISOR"

// witness is a guest that other VMMs run: it says which drivers its PCI functions have.
type witness struct{ kernel, initramfs string }

// newWitness returns what the guest boots from; init waits until the driver has bound a function.
func newWitness(t *testing.T) witness {
	t.Helper()
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	var w witness
	if w.kernel, err = cache.DefaultKernel(t.Context()); err != nil {
		t.Fatal(err)
	}
	contents := &images.Initramfs{Agent: &images.Agent{Path: filepath.Join(tools, "witness")}}
	if w.initramfs, err = cache.Initramfs(t.Context(), contents); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWitnesses: VMMs that know nothing of wrapped functions take one beside a sibling on vfio-pci, of one group, and the guest's
// driver binds it. QEMU always, Cloud Hypervisor in the soak.
func TestWitnesses(t *testing.T) {
	p := wrappedLab(t)
	w := newWitness(t)
	eduA, eduB, nic := labThree[0], labThree[1], labThree[2]
	p.stile(t, "bind", eduA, eduB)
	uuid := p.wrap(t, nic)[1]
	defer p.stile(t, "unbind", eduA, eduB)
	defer p.stile(t, "mdev", "unwrap", nic)
	sysfs := []string{"/sys/bus/mdev/devices/" + uuid, "/sys/bus/pci/devices/" + eduA}
	t.Run("QEMU", func(t *testing.T) {
		args := []string{"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,accel=kvm", "-cpu", "host,xsave=off", "-m", "256",
			"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", w.kernel, "-initrd", w.initramfs, "-append", witnessWords}
		for _, path := range sysfs {
			args = append(args, "-device", "vfio-pci,sysfsdev="+path)
		}
		w.run(t, p, args)
	})
	t.Run("Cloud Hypervisor", func(t *testing.T) {
		if !testenv.Soak() {
			testenv.Missing(t, "soak", "it is tried by make soak")
		}
		program := os.Getenv(envCloudHypervisor)
		if program == "" {
			program = "cloud-hypervisor"
		}
		program, err := exec.LookPath(program)
		if err != nil {
			testenv.Missing(t, "cloud-hypervisor", err.Error())
		}
		args := []string{program, "--kernel", w.kernel, "--initramfs", w.initramfs, "--cmdline", witnessWords + " noxsave", "--cpus", "boot=1",
			"--memory", "size=256M", "--serial", "tty", "--console", "off", "--device"}
		for _, path := range sysfs {
			args = append(args, "path="+path)
		}
		w.run(t, p, args)
	})
}

// witnessWords are for the kernel: witness is in init's environment.
const witnessWords = "console=ttyS0 quiet panic=-1 reboot=t e1000e.IntMode=0 witness=e1000e"

// run has a VMM boot the guest, and looks for both functions.
func (w witness) run(t *testing.T, p passed, args []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := p.Command(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	for _, want := range []string{"function 0x8086 0x10d3 e1000e\r\n", "function 0x1234 0x11e8 .\r\n"} {
		if err != nil || strings.Count(out.String(), want) != 1 {
			t.Errorf("%q: %v, without %q once:\n%s", args, err, want, out.String())
		}
	}
}
