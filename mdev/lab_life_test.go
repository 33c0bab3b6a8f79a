package mdev_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/mdev"
	"github.com/stile-vmm/stile/vfio"
)

const donorFolder = "/sys/bus/pci/drivers/" + hostpci.DonorDriver

// TestLabDevice has registers, DMA, MSI, INTx, reset and second users of a wrapped device, as of one on vfio-pci.
func TestLabDevice(t *testing.T) {
	w := labWrap(t, labHost(t), alone)
	runVFIO(t, "STILE_VFIO_EDU="+w.UUID, "TestLabRegisters|TestLabDMA|TestLabKernelRefusesMaps|TestLabInterrupts|TestLabSecondUser|TestLabMemlock")
}

// TestLabVectors has the MSI-X vectors of a wrapped disk.
func TestLabVectors(t *testing.T) {
	w := labWrap(t, labHost(t), "0000:05:00.0")
	runVFIO(t, "STILE_VFIO_MSIX="+w.UUID, "TestLabVectors")
}

// TestLabGivesBack: an unwrapped function is as it was.
func TestLabGivesBack(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, network)
	if w.From != "e1000e" {
		t.Errorf("it was on %q", w.From)
	}
	u, err := h.Unwrap(w.UUID, mdev.UnwrapOptions{})
	check(t, err)
	override, err := os.ReadFile("/sys/bus/pci/devices/" + network + "/driver_override")
	check(t, err)
	if u.Driver != "e1000e" || driver(network) != "e1000e" || strings.TrimSpace(string(override)) != "(null)" {
		t.Errorf("unwrapped: %+v, driver %q, override %q", u, driver(network), override)
	}
	wantNothing(t, h)
}

func wantNothing(t *testing.T, h *mdev.Host) {
	t.Helper()
	devices, err := h.Devices()
	check(t, err)
	entries, err := h.PCI().Bindings()
	check(t, err)
	if len(devices)+len(entries)+len(h.Stale()) > 0 {
		t.Errorf("left are devices %+v, bindings %+v, notes %v", devices, entries, h.Stale())
	}
}

// TestLabInUse: what would block is refused and its holder named; what is forced waits and says so.
func TestLabInUse(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, network)
	forEachBackend(t, []string{w.UUID}, func(t *testing.T, b vfio.Backend) {
		t.Cleanup(func() { // for the next one
			_, err := h.Create(network, "type1", w.UUID)
			check(t, err)
		})
		held := hold(t, b, w.UUID)
		_, unwrapErr := h.Unwrap(network, mdev.UnwrapOptions{})
		for what, err := range map[string]error{"remove": h.Remove(w.UUID, mdev.RemoveOptions{}), "unwrap": unwrapErr} {
			var use *mdev.InUseError
			if !errors.As(err, &use) || len(use.Holders) != 1 || use.Holders[0].PID != held.Process.Pid {
				t.Errorf("%s while process %d has it open: %v", what, held.Process.Pid, err)
			}
		}
		if err := unix.DeleteModule("vfio_mdev_pci", unix.O_NONBLOCK); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) {
			t.Errorf("unload the module meanwhile: %v", err)
		}
		notices := make(chan string, 1)
		removed := make(chan error, 1)
		go func() {
			removed <- h.Remove(w.UUID, mdev.RemoveOptions{Force: true, Notice: func(text string) { notices <- text }})
		}()
		select {
		case text := <-notices:
			if !strings.Contains(text, "process "+strconv.Itoa(held.Process.Pid)) {
				t.Errorf("notice %q", text)
			}
		case err := <-removed:
			t.Fatalf("the removal did not wait: %v", err)
		}
		held.release()
		check(t, <-removed)
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestLabRemoveAndUnbind: a removal and an unbinding of the parent meet, in either order, while the device is in use.
func TestLabRemoveAndUnbind(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, network)
	remove := func() error { return write("/sys/bus/mdev/devices/"+w.UUID+"/remove", "1") }
	unbind := func() error { return write(donorFolder+"/unbind", network) }
	for name, order := range map[string][2]func() error{"remove first": {remove, unbind}, "unbind first": {unbind, remove}} {
		t.Run(name, func(t *testing.T) {
			if !exists("/sys/bus/mdev/devices/" + w.UUID) {
				_, err := h.Create(network, "type1", w.UUID)
				check(t, err)
			}
			held := hold(t, vfio.Legacy, w.UUID)
			done := make(chan error, 2)
			for _, change := range order {
				go func() { done <- change() }()
				time.Sleep(200 * time.Millisecond) // mostly it waits by then; the test holds otherwise, too
			}
			select {
			case err := <-done:
				t.Errorf("one did not wait for the user: %v", err)
				done <- err
			default:
			}
			held.release()
			t.Log(<-done, <-done)
			if exists("/sys/bus/mdev/devices/"+w.UUID) || driver(network) != "" {
				t.Errorf("left: driver %q", driver(network))
			}
			check(t, write("/sys/bus/pci/drivers_probe", network))
		})
	}
}

// killVariable makes TestLabVictim wrap and unwrap a function and kill itself before write N, counted from 0.
const killVariable = "STILE_MDEV_KILL"

// suicidal writes as a host does, and kills this process before one write.
type suicidal struct{ left int }

func (s *suicidal) Write(w hostpci.Write) error {
	if s.left == 0 {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	s.left--
	return write(w.Path, w.Value)
}

func TestLabVictim(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(killVariable))
	if err != nil {
		testenv.Missing(t, "nested", "other tests run it")
	}
	h := mdev.New("/").WithWriter(&suicidal{n}, func(string) error { return errors.New("the module is loaded") })
	_, err = h.Wrap(bdf(t, network), mdev.WrapOptions{})
	check(t, err)
	_, err = h.Unwrap(network, mdev.UnwrapOptions{})
	check(t, err)
}

// TestLabKilled: a process is killed at each step of a wrap and of the unwrap after it. What it left is undone.
func TestLabKilled(t *testing.T) {
	h := labHost(t)
	for n := range 9 {
		err := child(t, "TestLabVictim", killVariable+"="+strconv.Itoa(n)).Run()
		if survived := n == 8; (err == nil) != survived || len(h.Stale()) == 1 == survived {
			t.Errorf("write %d: %v, stale %v", n, err, h.Stale())
		}
		check(t, h.Recover(nil))
		if got := driver(network); got != "e1000e" {
			t.Errorf("write %d: it is on %q", n, got)
		}
		wantNothing(t, h)
	}
}

// TestLabSRIOV: a virtual function can be wrapped; its physical one only while it has none, and it gets none meanwhile.
func TestLabSRIOV(t *testing.T) {
	const physical, folder = "0000:07:00.0", "/sys/bus/pci/devices/0000:07:00.0/"
	h := labHost(t)
	check(t, write(folder+"sriov_numvfs", "1"))
	virtual, err := os.Readlink(folder + "virtfn0")
	check(t, err)
	_, err = h.Wrap(bdf(t, physical), mdev.WrapOptions{})
	wantError(t, err, "1 virtual function of it ends with its driver")
	t.Run("virtual", func(t *testing.T) {
		w := labWrap(t, h, filepath.Base(virtual))
		if w.Group.Viability.Viable {
			attach(t, open(t, vfio.Legacy), w.UUID)
		} else if v := w.Group.Viability; !strings.Contains(v.Reason, physical) {
			t.Errorf("with its physical function in its group: %+v", v)
		}
	})
	check(t, write(folder+"sriov_numvfs", "0"))
	w := labWrap(t, h, physical)
	if err := write(folder+"sriov_numvfs", "1"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("virtual functions of %s, which is wrapped: %v", w.UUID, err)
	}
}

// TestLabEmulated: a device of another driver has a group of its own, whose IOMMU is emulated.
func TestLabEmulated(t *testing.T) {
	h := labHost(t)
	release := unameRelease(t)
	path := "/lib/modules/" + release + "/kernel/samples/vfio-mdev/mtty.ko"
	if !exists(path) {
		testenv.Missing(t, "mtty", "the kernel has no samples")
	}
	check(t, mdev.Load(path, release))
	p, err := h.Parent("mtty")
	check(t, err)
	if p.Function != nil || p.Group != nil || len(p.Types) == 0 {
		t.Fatalf("parent %+v", p)
	}
	uuid, err := h.Create("mtty", p.Types[0].ID, "")
	check(t, err)
	devices, err := h.Devices()
	check(t, err)
	if len(devices) != 1 || !devices[0].Emulated || devices[0].ParentGroup || devices[0].Wrapped || devices[0].Group == nil {
		t.Errorf("devices %+v", devices)
	}
	_, err = h.Unwrap(uuid, mdev.UnwrapOptions{})
	wantError(t, err, "stile mdev remove")
	check(t, h.Remove(uuid, mdev.RemoveOptions{}))
	wantNothing(t, h)
}

func unameRelease(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	check(t, unix.Uname(&u))
	return unix.ByteSliceToString(u.Release[:])
}

// TestLabRefused: what can't be wrapped, and modules that can't be loaded.
func TestLabRefused(t *testing.T) {
	h := labHost(t)
	for name, want := range map[string]string{"0000:03:00.0": "is a bridge", "0000:1f:00.0": "no PCI function"} {
		_, err := h.Wrap(bdf(t, name), mdev.WrapOptions{})
		wantError(t, err, want)
	}
	module, err := filepath.Glob("/lib/modules/" + unameRelease(t) + "/kernel/drivers/vfio/mdev/mdev.ko")
	check(t, err)
	if len(module) == 0 {
		return
	}
	text, err := os.ReadFile(module[0])
	check(t, err)
	foreign := filepath.Join(t.TempDir(), "foreign.ko")
	magic := regexp.MustCompile(`vermagic=[0-9.]{3}`)
	check(t, os.WriteFile(foreign, magic.ReplaceAll(text, []byte("vermagic=5.0")), 0o644))
	check(t, unloadMdev())
	t.Cleanup(func() { check(t, mdev.Load(module[0], unameRelease(t))) })
	wantError(t, mdev.Load(foreign, unameRelease(t)), "it was built for kernel 5.0")
}

// unloadMdev unloads the modules that are loaded already and would hide what a foreign one gives.
func unloadMdev() error {
	return errors.Join(unload("vfio_mdev_pci"), unload("mtty"), unload("mdev"))
}

func unload(module string) error {
	err := unix.DeleteModule(module, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
