// Package vmtest boots Linux VMs in Go tests.
//
//	func TestKernel(t *testing.T) {
//		vm := vmtest.Start(t, vmtest.Config{})
//		out, err := vm.Command(t.Context(), "uname", "-r").Output()
//		…
//	}
//
// Where this machine's KVM can run Linux, the VM runs in the test's process. Elsewhere it
// runs in the lab, a nested host under QEMU's emulation that is booted once and then
// resumed. A test that can have neither is skipped with the reason, or fails where
// STILE_TEST_REQUIRE lists "lab". STILE_ON=host or STILE_ON=lab makes the choice.
//
// By default the guest's root is a copy-on-write view of the host's: commands see the
// host's programs and files, and what they write is gone with the VM.
package vmtest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/internal/testenv"
)

// envOn chooses where VMs run, as stile run --on does.
const envOn = "STILE_ON"

// A test binary is the guest's /init, unpacks kernels and runs VMs in the nested host. No
// other function of this package has a chance to run first in a test binary without a
// TestMain of its own, hence init. In any other process it does nothing.
func init() { guest.MaybeHelper() }

// Config describes a VM. The zero value is one CPU, 512 MiB, the default kernel and a view
// of the host's root.
type Config struct {
	Kernel  string   // path of a bzImage or an ELF vmlinux; "" is the default kernel
	Modules string   // the kernel's lib/modules/RELEASE folder, where virtio and 9p are modules
	Append  []string // words for the kernel's command line
	CPUs    int
	Memory  uint64        // bytes
	Root    string        // "host", "none", "uroot" or a folder; "" is "host"
	Folders []Folder      // of the host, mounted in the guest
	Disks   []Disk        // /dev/vda and on; one that is written to makes PowerOff so
	Net     []string      // network cards, as stile run --net takes them: "user,fwd=8022:22"
	Timeout time.Duration // for the boot; 0 is four minutes
	// PowerOff powers the guest off in order at its end. Otherwise it is stopped: what it wrote is thrown away with it.
	PowerOff bool
}

// Folder is a folder of the host, seen at Guest in the VM, the same path where Guest is empty. Its Mode is "ro",
// "rw", or "cow" for writes that end with the VM; docs/folders.md says whose the files are.
type Folder = guest.Folder

func (c Config) spec() guest.Spec {
	return guest.Spec{
		Kernel: c.Kernel, Modules: c.Modules, Append: c.Append, CPUs: c.CPUs, Memory: c.Memory, Root: c.Root,
		Folders: c.Folders, Disks: c.Disks, Nets: c.Net, BootTimeout: c.Timeout, PowerOff: c.PowerOff,
	}
}

// VM is a running VM. It ends with the test that started it. Its methods may be called
// concurrently.
type VM struct {
	session *session.Session
	dir     string   // where commands run
	env     []string // what they get beside the VM's own environment
	log     func() []byte
	close   func() error
	once    sync.Once
	err     error
}

// Start boots a VM. It ends the test if that fails, and skips it where no VM can run.
// When the test ends the VM is powered off; the kernel log's end is logged if the test failed.
func Start(t testing.TB, c Config) *VM {
	t.Helper()
	testenv.Short(t)
	spec, err := c.spec().Absolute()
	if err == nil {
		err = spec.Validate()
	}
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	place, _, err := guest.Choose(os.Getenv(envOn))
	if err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
	start := startOnHost
	if place == guest.InLab {
		start = startInLab
	}
	vm, err := start(t, spec)
	if err != nil {
		if log := guest.KernelLog(err); len(log) > 0 {
			t.Logf("the kernel log's end:\n%s", log)
		}
		t.Fatalf("vmtest: %v", err)
	}
	vm.dir = "/"
	if c.Root == "" || c.Root == guest.RootHost {
		vm.dir = workDir(t)
	}
	vm.endWith(t)
	return vm
}

// endWith closes the VM when the test ends, and logs its kernel's last words if the test failed.
func (vm *VM) endWith(t testing.TB) {
	t.Cleanup(func() {
		if log := vm.log(); t.Failed() && len(log) > 0 {
			t.Logf("the kernel log's end:\n%s", log)
		}
		if err := vm.Close(); err != nil {
			t.Errorf("vmtest: close: %v", err)
		}
	})
}

func workDir(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	return dir
}

func startOnHost(t testing.TB, spec guest.Spec) (*VM, error) {
	g, err := guest.Boot(t.Context(), spec, nil)
	if err != nil {
		return nil, err
	}
	closeGuest := func() error {
		_, err := g.Close()
		return err
	}
	return &VM{session: g.Session(), log: g.KernelLog, close: closeGuest}, nil
}

// labRoom is how long the nested host may take besides the guest's own boot, in which its
// state may have to be built.
const labRoom = 3 * time.Minute

func startInLab(t testing.TB, spec guest.Spec) (*VM, error) {
	ctx, cancel := context.WithTimeout(t.Context(), labRoom)
	defer cancel()
	host, err := guest.ResumeLab(ctx, spec, guest.LabSpec{}, os.Stderr)
	var lacks *guest.NoQEMUError
	if errors.As(err, &lacks) {
		testenv.Missing(t, "lab", err.Error())
	}
	if err != nil {
		return nil, err
	}
	g, err := host.Boot(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return &VM{session: g.Session(), log: g.KernelLog, close: func() error { return errors.Join(g.Close(), host.Close()) }}, nil
}

// Kernel returns the guest kernel's release, as uname -r prints it.
func (vm *VM) Kernel() string { return vm.session.Hello().Kernel }

// KernelLog returns the end of what the guest's kernel has printed.
func (vm *VM) KernelLog() []byte { return vm.log() }

// Close powers the VM off. The end of the test does so too; further calls return the
// first result.
func (vm *VM) Close() error {
	vm.once.Do(func() { vm.err = vm.close() })
	return vm.err
}
