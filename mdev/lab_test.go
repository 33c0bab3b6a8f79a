package mdev_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/mdev"
	"github.com/stile-vmm/stile/vfio"
)

// Functions of the topology "all".
const (
	alone   = "0000:01:00.0" // edu
	firstOf = "0000:02:00.0" // edu, in one group with the next two
	second  = "0000:02:00.1" // edu
	third   = "0000:02:00.2" // e1000e
	behindA = "0000:04:01.0" // edu, in one group with the next two and their bridge
	behindB = "0000:04:02.0" // edu
	behindC = "0000:04:03.0" // e1000e
	network = "0000:06:00.0" // e1000e, alone
)

// labHost returns the host with the module loaded.
func labHost(t *testing.T) *mdev.Host {
	t.Helper()
	if os.Getenv(labVariable) == "" {
		testenv.Missing(t, "nested", "TestInLab runs it in a nested host")
	}
	ensure(t)
	return mdev.New("/")
}

func ensure(t *testing.T) {
	t.Helper()
	m, err := runningModule(t)
	check(t, err)
	check(t, m.Ensure(t.Context()))
}

func runningModule(t *testing.T) (*mdev.Module, error) {
	t.Helper()
	cache, err := images.Open("")
	check(t, err)
	return mdev.RunningModule(cache, func(what string) { t.Log(what) })
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not have %q", err, part)
		}
	}
}

func bdf(t *testing.T, name string) hostpci.BDF {
	t.Helper()
	b, err := hostpci.ParseBDF(name)
	check(t, err)
	return b
}

// labWrap wraps a function until the end of the test.
func labWrap(t *testing.T, h *mdev.Host, name string) *mdev.Wrapped {
	t.Helper()
	w, err := h.Wrap(bdf(t, name), mdev.WrapOptions{Notice: func(text string) { t.Log(text) }})
	check(t, err)
	t.Cleanup(func() {
		if driver(name) != hostpci.DonorDriver {
			return
		}
		if _, err := h.Unwrap(name, mdev.UnwrapOptions{}); err != nil {
			t.Errorf("unwrap: %v", err)
		}
	})
	return w
}

// labBind gives functions to vfio-pci until the end of the test.
func labBind(t *testing.T, h *mdev.Host, names ...string) {
	t.Helper()
	var list []hostpci.BDF
	for _, name := range names {
		list = append(list, bdf(t, name))
	}
	_, err := h.PCI().Bind(list, hostpci.BindOptions{Keep: true})
	check(t, err)
	t.Cleanup(func() {
		if _, err := h.PCI().Unbind(list, hostpci.UnbindOptions{}); err != nil {
			t.Errorf("unbind: %v", err)
		}
	})
}

func driver(name string) string {
	to, err := os.Readlink("/sys/bus/pci/devices/" + name + "/driver")
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func write(path, value string) error { return os.WriteFile(path, []byte(value), 0) }

func lookup(t *testing.T, name string) vfio.Node {
	t.Helper()
	n, err := vfio.Lookup("/sys", name)
	check(t, err)
	return n
}

// forEachBackend runs test with groups, and with iommufd where the kernel has that.
func forEachBackend(t *testing.T, names []string, test func(t *testing.T, b vfio.Backend)) {
	for _, b := range []vfio.Backend{vfio.Legacy, vfio.IOMMUFD} {
		t.Run(string(b), func(t *testing.T) {
			if n := lookup(t, names[0]); b == vfio.IOMMUFD && n.Cdev == "" {
				testenv.Missing(t, "iommufd", "the kernel has no VFIO character devices")
			}
			test(t, b)
		})
	}
}

func open(t *testing.T, b vfio.Backend) *vfio.Space {
	t.Helper()
	s, err := vfio.Open(b, vfio.Options{})
	check(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func attach(t *testing.T, s *vfio.Space, name string) *vfio.Device {
	t.Helper()
	d, err := s.Attach(lookup(t, name))
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// helperVariable makes TestLabHelper, in a process of its own, have a device open: "BACKEND NAME".
const helperVariable = "STILE_MDEV_HELPER"

func TestLabHelper(t *testing.T) {
	what := strings.Fields(os.Getenv(helperVariable))
	if len(what) != 2 {
		testenv.Missing(t, "nested", "other tests run it")
	}
	_, err := open(t, vfio.Backend(what[0])).Attach(lookup(t, what[1]))
	fmt.Printf("ATTACH %v\n", err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// holder is another process that has a device open.
type holder struct {
	*exec.Cmd
	stdin io.Closer
	// result is what its attach returned, as text.
	result string
}

func hold(t *testing.T, b vfio.Backend, name string) *holder {
	t.Helper()
	h := &holder{Cmd: child(t, "TestLabHelper", helperVariable+"="+string(b)+" "+name)}
	var err error
	h.stdin, err = h.StdinPipe()
	check(t, err)
	out, err := h.StdoutPipe()
	check(t, err)
	check(t, h.Start())
	t.Cleanup(h.release)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if result, ok := strings.CutPrefix(lines.Text(), "ATTACH "); ok {
			h.result = result
			return h
		}
	}
	t.Fatal("the other process ended")
	return nil
}

func (h *holder) release() {
	h.stdin.Close()
	_ = h.Wait()
}

// child is this program running one test.
func child(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), self, "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// TestLabPoint1ParentsGroup: the mdev is in the group of its parent, which is a set of devices.
func TestLabPoint1ParentsGroup(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, second)
	own, parents := lookup(t, w.UUID), lookup(t, second)
	if own.Group != parents.Group || own.NoIOMMU {
		t.Errorf("mdev %+v, parent %+v", own, parents)
	}
	wantNames(t, own.Group, firstOf, second, third)
	devices, err := h.Devices()
	check(t, err)
	if len(devices) != 1 || !devices[0].ParentGroup || devices[0].Emulated || !devices[0].Wrapped {
		t.Errorf("devices %+v", devices)
	}
	if w.Group.Kind != hostpci.Isolated || len(w.Others()) != 2 {
		t.Errorf("group %+v, others %+v", w.Group, w.Others())
	}
}

// TestLabGroupLink: the group's folder names PCI functions only, which is what tools expect that walk it (libvirt takes the
// digits of a UUID for a PCI address); the module's parameter group_link has the mediated device named there, too.
func TestLabGroupLink(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, second)
	wantNames(t, w.Group.ID, firstOf, second, third)
	_, err := h.Unwrap(second, mdev.UnwrapOptions{})
	check(t, err)
	const parameter = "/sys/module/vfio_mdev_pci/parameters/group_link"
	check(t, os.WriteFile(parameter, []byte("Y"), 0o600))
	defer func() { check(t, os.WriteFile(parameter, []byte("N"), 0o600)) }()
	w = labWrap(t, h, second)
	wantNames(t, w.Group.ID, firstOf, second, third, w.UUID)
	if n := len(w.Group.Members); n != 4 {
		t.Errorf("the group has %d members: %+v", n, w.Group.Members)
	}
	_, err = h.Unwrap(second, mdev.UnwrapOptions{})
	check(t, err)
	wantNames(t, w.Group.ID, firstOf, second, third)
}

// wantNames compares what a group's folder names.
func wantNames(t *testing.T, group int, want ...string) {
	t.Helper()
	members, err := os.ReadDir(fmt.Sprintf("/sys/kernel/iommu_groups/%d/devices", group))
	check(t, err)
	var names []string
	for _, m := range members {
		names = append(names, m.Name())
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("the group has %v, want %v", names, want)
	}
}

// TestLabPoint2Viable: the parent stays with its driver and donates the group; another member on a driver of the host
// keeps the group from being viable.
func TestLabPoint2Viable(t *testing.T) {
	h := labHost(t)
	labBind(t, h, firstOf)
	w := labWrap(t, h, second)
	if got := driver(second); got != hostpci.DonorDriver {
		t.Errorf("the parent is on %q", got)
	}
	if v := w.Group.Viability; v.Viable || !strings.Contains(v.Reason, third) || driver(third) != "e1000e" {
		t.Errorf("with %s on %s: %+v", third, driver(third), v)
	}
	forEachBackend(t, []string{w.UUID}, func(t *testing.T, b vfio.Backend) {
		_, err := open(t, b).Attach(lookup(t, w.UUID))
		if b == vfio.Legacy {
			wantError(t, err, "not viable")
		} else if !errors.Is(err, unix.EPERM) {
			t.Errorf("attach: %v", err)
		}
	})
	check(t, write("/sys/bus/pci/drivers/e1000e/unbind", third))
	t.Cleanup(func() { check(t, write("/sys/bus/pci/drivers_probe", third)) })
	s, err := h.PCI().Scan()
	check(t, err)
	if v := s.Group(w.Group.ID).Viability; !v.Viable || !v.Usable {
		t.Errorf("with %s unbound: %+v", third, v)
	}
	forEachBackend(t, []string{w.UUID}, func(t *testing.T, b vfio.Backend) {
		attach(t, open(t, b), w.UUID)
	})
}

// TestLabPoint3ParentNotOpened: the group has no device with the parent's address.
func TestLabPoint3ParentNotOpened(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, alone)
	if n := lookup(t, alone); n.Cdev != "" {
		t.Errorf("the parent has %s", n.Cdev)
	}
	n := lookup(t, w.UUID)
	for _, name := range []string{alone, w.UUID + "x", w.UUID[:35], "", alone + " vf_token=" + w.UUID} {
		n.Name, n.Cdev = name, ""
		if _, err := open(t, vfio.Legacy).Attach(n); !errors.Is(err, unix.ENODEV) {
			t.Errorf("open %q: %v", name, err)
		}
	}
	attach(t, open(t, vfio.Legacy), w.UUID)
}

// TestLabPoint4OneOwner: members of a group, wrapped or on vfio-pci, go to one owner together, and never to two.
func TestLabPoint4OneOwner(t *testing.T) {
	h := labHost(t)
	labBind(t, h, behindA, behindC)
	w := labWrap(t, h, behindB)
	names := []string{w.UUID, behindA}
	forEachBackend(t, names, func(t *testing.T, b vfio.Backend) {
		for i, name := range names {
			s := open(t, b)
			d := attach(t, s, name)
			other := hold(t, b, names[1-i])
			want := map[vfio.Backend]unix.Errno{vfio.Legacy: unix.EBUSY, vfio.IOMMUFD: unix.EPERM}[b]
			if !strings.Contains(other.result, want.Error()) {
				t.Errorf("%s while another process has %s: %s, want %v", names[1-i], name, other.result, want)
			}
			other.release()
			attach(t, s, names[1-i])
			check(t, d.Close())
			check(t, s.Close())
		}
	})
	runVFIO(t, "STILE_VFIO_GROUP="+strings.Join(names, ","), "TestLabGroup")
	runVFIO(t, "STILE_VFIO_GROUP="+strings.Join([]string{behindA, w.UUID}, ","), "TestLabGroup")
}

// TestLabPoint5OneInstance: a parent makes one device.
func TestLabPoint5OneInstance(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, alone)
	p, err := h.Parent(alone)
	check(t, err)
	if len(p.Types) != 1 || p.Types[0].Available != 0 || !slices.Equal(p.Types[0].Devices, []string{w.UUID}) || p.Types[0].DeviceAPI != "vfio-pci" {
		t.Errorf("parent %+v", p)
	}
	_, err = h.Create(alone, "type1", "")
	wantError(t, err, "no instance", w.UUID)
	if !errors.Is(err, unix.EUSERS) {
		t.Errorf("second instance: %v", err)
	}
	other := labWrap(t, h, network)
	check(t, h.Remove(other.UUID, mdev.RemoveOptions{}))
	_, err = h.Create(network, "type1", w.UUID)
	wantError(t, err, "belongs to a mediated device of "+alone)
	if !errors.Is(err, unix.EEXIST) {
		t.Errorf("UUID twice: %v", err)
	}
	if err := write("/sys/class/mdev_bus/"+network+"/mdev_supported_types/vfio-mdev-pci-type1/create", "nonsense"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("bad UUID: %v", err)
	}
	_, err = h.Create(network, "type1", "")
	check(t, err)
	_, err = h.Wrap(bdf(t, alone), mdev.WrapOptions{})
	wantError(t, err, "is wrapped as "+w.UUID+" already")
}

// TestLabPoint6UsersContext: while the group has a user, what the device reaches is the user's map, and no driver of the
// host may join.
func TestLabPoint6UsersContext(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, second)
	check(t, write("/sys/bus/pci/drivers/e1000e/unbind", third))
	runVFIO(t, "STILE_VFIO_EDU="+w.UUID, "TestLabDMA")
	if log := kernelLog(t); !strings.Contains(log, "02:00.1] fault addr") {
		t.Errorf("no fault of %s in the kernel's log:\n%s", second, log)
	}
	held := hold(t, vfio.Legacy, w.UUID)
	if held.result != "<nil>" {
		t.Fatal(held.result)
	}
	_ = write("/sys/bus/pci/drivers_probe", third)
	if got := driver(third); got != "" {
		t.Errorf("the driver %s joined a group that has a user", got)
	}
	held.release()
	check(t, write("/sys/bus/pci/drivers_probe", third))
	if got := driver(third); got != "e1000e" {
		t.Errorf("without the user %s is on %q", third, got)
	}
}

// runVFIO runs tests of package vfio on a wrapped device.
func runVFIO(t *testing.T, env, tests string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(labVariable), "-test.v", "-test.run=^("+tests+")$")
	cmd.Env = append(os.Environ(), "STILE_VFIO_LAB=1", env)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestLab") {
		t.Errorf("%s, %s: %v\n%s", env, tests, err, out)
	}
}

func kernelLog(t *testing.T) string {
	t.Helper()
	const readAll = 3 // syslog(2)
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	check(t, err)
	return string(buf[:n])
}
