// Package vmtest boots Linux VMs in Go tests, and runs tests in them.
//
//	func TestKernel(t *testing.T) {
//		vm := vmtest.Start(t, vmtest.Config{})
//		out, err := vm.Command(t.Context(), "uname", "-r").Output()
//		t.Logf("%s, %v", out, err)
//	}
//
//	func TestMount(t *testing.T) {
//		vmtest.Run(t, vmtest.Config{}, func(t *testing.T) {
//			dir := t.TempDir()
//			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil { // as root of a guest
//				t.Fatal(err)
//			}
//			t.Cleanup(func() { unix.Unmount(dir, 0) })
//		})
//	}
//
// Main runs every test of a package in one VM:
//
//	func TestMain(m *testing.M) { vmtest.Main(m) }
//
// # Where VMs run
//
// Where this machine's KVM can run Linux, the VM runs in the test's process. Elsewhere it
// runs in the lab, a nested host under QEMU's emulation that is booted once and then
// resumed. A test that can have neither is skipped with the reason, or fails where
// STILE_TEST_REQUIRE lists "lab". STILE_ON=host or STILE_ON=lab makes the choice. With -short, Start, Run, Shared and Lab
// skip their tests.
//
// By default the guest's root is a copy-on-write view of the host's: commands see the
// host's programs and files, and what they write is gone with the VM.
//
// # How many
//
// Tests may start VMs in parallel, also those of several packages. A VM waits until the machine has room for it:
// all VMs of a user's tests share three quarters of the memory and are at most four for each CPU. A VM that has waited
// for five minutes starts all the same, so that a test can't wait for itself.
//
// # When something fails
//
// A failing test logs the end of the VM's kernel log, and where all of it is: in the test's artifact folder with
// -artifacts, else in stile's cache, which keeps the logs of the last VMs (stile logs). A command in a VM that died returns the reason: the panic's text, a
// triple fault's registers, a lost device.
package vmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/testrun"
	"github.com/stile-vmm/stile/vmm"
)

// envOn chooses where VMs run, as stile run --on does.
const envOn = "STILE_ON"

// A test binary is the guest's /init, unpacks kernels and runs VMs in the nested host. No
// other function of this package has a chance to run first in a test binary without a
// TestMain of its own, hence init. In any other process it does nothing.
func init() { guest.MaybeHelper() }

// VM is a running VM. It ends with the test that started it. Its methods may be called
// concurrently.
type VM struct {
	session *session.Session
	absent  bool     // there is none: see absentVM
	dir     string   // where commands run
	env     []string // what they get beside the VM's own environment
	log     func() []byte
	reason  func(error) error // why the VM ended
	logPath string            // of the kernel's whole log, "" if there is none
	faults  func() []Fault    // nil for a VM that has none
	fault   func() error      // once it was closed; nil for a VM that has none
	keeps   bool              // something of this host, which others get once it was closed
	close   func() error
	once    sync.Once
	closed  atomic.Bool // Close was called
	err     error
}

// InGuest reports whether this test binary runs in a guest, by Main, Run or stile test.
func InGuest() bool { return os.Getenv(testrun.EnvGuest) != "" }

// Start boots a VM. It ends the test if that fails, and skips it where no VM can run.
// The VM is stopped when the test ends.
func Start(t testing.TB, c Config) *VM {
	t.Helper()
	if !outside(t) {
		return absentVM()
	}
	vm, err := start(t.Context(), t.Name(), c)
	check(t, err)
	vm.endWith(t)
	return vm
}

// start boots a VM of c once there is room for it. Its error is for check.
func start(ctx context.Context, name string, c Config) (*VM, error) {
	dir, err := c.workDir()
	if err != nil {
		return nil, err
	}
	spec := c.spec()
	spec.Command = []string{name}
	g, err := testrun.Start(ctx, spec, c.where(), shared.endIdle)
	if err != nil {
		return nil, err
	}
	lookAtInputs(ctx, spec)
	return &VM{session: g.Session(), dir: dir, log: g.KernelLog, logPath: g.LogPath(), reason: g.Explain, keeps: g.Keeps(), close: g.Close,
		faults: g.Faults, fault: g.Fault}, nil
}

// check ends the test if err, which start returned, says that there is no VM.
func check(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if unavailable := (*guest.UnavailableError)(nil); errors.As(err, &unavailable) {
		testenv.Missing(t, "lab", inGo(err).Error())
	}
	if log := guest.KernelLog(err); len(log) > 0 {
		t.Logf("the kernel log's end:\n%s", log)
	}
	logPath(t, guest.LogPath(err))
	t.Fatalf("vmtest: %v", inGo(err))
}

// endWith closes the VM when the test ends, and logs its kernel's last words if the test failed.
func (vm *VM) endWith(t testing.TB) {
	t.Cleanup(func() {
		vm.report(t)
		if err := vm.Close(); err != nil {
			t.Errorf("vmtest: close: %v", err)
		}
	})
}

// report logs what the VM's kernel has reported, and what the VM has to say about a test that failed.
func (vm *VM) report(t testing.TB) {
	for _, f := range vm.Faults() {
		t.Logf("the guest's kernel reported (%s): %s", f.Kind, f.Text)
	}
	if !t.Failed() {
		return
	}
	select {
	case <-vm.session.Done():
		t.Logf("the VM had ended: %v", vm.explain(session.ErrAgentLost))
	default:
	}
	if log := vm.log(); len(log) > 0 {
		t.Logf("the kernel log's end:\n%s", log)
	}
	logPath(t, vm.logPath)
}

// logPath says where all of a kernel's log is: in the test's artifacts, if they are kept.
func logPath(t testing.TB, path string) {
	if path == "" {
		return
	}
	if flagValue("test.artifacts") == "true" {
		copied := filepath.Join(t.ArtifactDir(), "console.log")
		if text, err := os.ReadFile(path); err == nil && os.WriteFile(copied, text, 0o644) == nil {
			path = copied
		}
	}
	t.Logf("the whole kernel log: %s", path)
}

// errClosed says that a VM is used during or after its Close.
var errClosed = fmt.Errorf("vmtest: the VM was closed: %w", os.ErrClosed)

// explain turns an error of something that was done in the VM into the reason why the VM ended, if it did.
func (vm *VM) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case vm.closed.Load() && errors.Is(err, session.ErrAgentLost):
		return errClosed
	case vm.reason == nil:
		return err
	}
	return inGo(vm.reason(err))
}

// Kernel returns the guest kernel's release, as uname -r prints it.
func (vm *VM) Kernel() string {
	if vm.absent {
		return ""
	}
	return vm.session.Hello().Kernel
}

// KernelLog returns the end of what the guest's kernel has printed.
func (vm *VM) KernelLog() []byte {
	if vm.absent {
		return nil
	}
	return vm.log()
}

// Done returns a channel that is closed when the VM has ended, for whatever reason.
func (vm *VM) Done() <-chan struct{} {
	if vm.absent {
		return nil
	}
	return vm.session.Done()
}

// Fault is one report of a guest's kernel on itself: an oops, a WARN, what its sanitizers and lock checkers find.
type Fault = vmm.Report

// Faults returns what the guest's kernel has reported so far, in order: the first 64, and the first of each kind. The log of a test has
// their first lines.
func (vm *VM) Faults() []Fault {
	if vm.faults == nil {
		return nil
	}
	return vm.faults()
}

// Dial connects to an address in the guest, as net.Dial does there: "tcp", "udp" (each also with 4 or 6) and "unix".
// The guest needs no network for it. ctx bounds the dialling alone.
func (vm *VM) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := vm.present(); err != nil {
		return nil, err
	}
	conn, err := vm.session.Dial(ctx, network, address)
	return conn, vm.explain(err)
}

// Close ends the VM. The end of the test does so too; further calls return the
// first result. What is done in the VM meanwhile and afterwards fails with os.ErrClosed.
func (vm *VM) Close() error {
	if vm.absent {
		return nil
	}
	vm.closed.Store(true)
	vm.once.Do(func() {
		vm.err = vm.close()
		if vm.fault != nil {
			vm.err = errors.Join(vm.err, vm.fault())
		}
	})
	return vm.err
}
