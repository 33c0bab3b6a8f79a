package hostpci_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

const (
	disk   = "0000:01:00.0"
	nicA   = "0000:03:00.0"
	nicB   = "0000:03:00.1"
	upper  = "0000:00:1c.0"
	noIOM  = "0000:09:00.0"
	wrapee = "0000:07:00.0"
)

// bindHost is a host with functions to bind and a kernel that binds them.
func bindHost(t *testing.T) (*hosttest.Tree, *hosttest.Kernel, *hostpci.Host) {
	t.Helper()
	tree := hosttest.New(t)
	tree.Driver("vfio-pci")
	tree.Add(hosttest.Function{Address: upper, Bridge: true, Driver: "pcieport", Group: 4},
		hosttest.Function{Address: disk, Parent: upper, Group: 1, Driver: "nvme", Class: "010802"},
		hosttest.Function{Address: nicA, Group: 3, Driver: "e1000e"},
		hosttest.Function{Address: nicB, Group: 3},
		hosttest.Function{Address: wrapee, Group: 7, Driver: "vfio-mdev-pci"},
		hosttest.Function{Address: noIOM, Driver: "e1000e"})
	k := &hosttest.Kernel{Tree: tree, Matches: map[string]string{disk: "nvme", nicA: "e1000e", nicB: "e1000e"}}
	return tree, k, hostpci.New(tree.Root).WithWriter(k, k.Load)
}

func bdfs(t *testing.T, names ...string) []hostpci.BDF {
	t.Helper()
	var list []hostpci.BDF
	for _, name := range names {
		list = append(list, bdf(t, name))
	}
	return list
}

// wantState checks a function's driver and override.
func wantState(t *testing.T, tree *hosttest.Tree, b, driver, override string) {
	t.Helper()
	if got := tree.Driven(b); got != driver {
		t.Errorf("%s is on driver %q, want %q", b, got, driver)
	}
	if got := tree.Read(tree.Folder(b) + "/driver_override"); got != override {
		t.Errorf("%s has override %q, want %q", b, got, override)
	}
}

func wantEntries(t *testing.T, h *hostpci.Host, n int) {
	t.Helper()
	entries, err := h.Bindings()
	if err != nil || len(entries) != n {
		t.Errorf("journal has %v (%v), want %d entries", entries, err, n)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

func TestBindAndBack(t *testing.T) {
	tree, k, h := bindHost(t)
	steps, err := h.Bind(bdfs(t, disk, nicB), hostpci.BindOptions{Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 || steps[0].From != "nvme" || steps[0].To != "vfio-pci" || steps[1].From != "" {
		t.Errorf("steps %+v", steps)
	}
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
	wantState(t, tree, nicB, "vfio-pci", "vfio-pci")
	wantEntries(t, h, 2)
	folder := "/sys/bus/pci/devices/" + disk
	want := []hostpci.Write{
		{Path: folder + "/driver_override", Value: "vfio-pci\n"},
		{Path: "/sys/bus/pci/drivers/nvme/unbind", Value: disk},
		{Path: "/sys/bus/pci/drivers_probe", Value: disk},
	}
	if got := k.Writes()[:3]; !slices.Equal(got, want) {
		t.Errorf("writes %v, want %v", got, want)
	}
	// Once more changes nothing.
	before := len(k.Writes())
	if steps, err = h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil || len(steps[0].Writes) != 0 {
		t.Errorf("bind again: %+v, %v", steps, err)
	}
	if len(k.Writes()) != before {
		t.Errorf("bind again wrote %v", k.Writes()[before:])
	}
	if steps, err = h.Unbind(bdfs(t, disk, nicB), hostpci.UnbindOptions{}); err != nil || steps[0].To != "nvme" || steps[1].To != "" {
		t.Errorf("unbind: %+v, %v", steps, err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	wantState(t, tree, nicB, "", "(null)") // it had no driver, whatever would match
	wantEntries(t, h, 0)
}

func TestBindKeepsAnOverrideThatWasThere(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Write(tree.Folder(nicA)+"/driver_override", "e1000e\n")
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unbind(bdfs(t, nicA), hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, nicA, "e1000e", "e1000e")
}

func TestBindRefuses(t *testing.T) {
	tests := []struct {
		name     string
		function string
		prepare  func(*hosttest.Tree)
		force    bool // even then
		parts    []string
	}{
		{name: "missing", function: "0000:0a:00.0", force: true, parts: []string{"no PCI function 0000:0a:00.0"}},
		{name: "bridge", function: upper, force: true, parts: []string{"0000:00:1c.0 is a bridge"}},
		{name: "no group", function: noIOM, force: true, parts: []string{"has no IOMMU group", "does not cover it"}},
		{name: "wrapped", function: wrapee, force: true, parts: []string{"is wrapped as a mediated device", "stile mdev unwrap 0000:07:00.0"}},
		{name: "mounted", function: disk, parts: []string{"in use on this host: nvme0n1p1 is mounted on /home", "--force"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Disk(disk, "nvme0n1p1", "259:1")
				h.Write("/proc/self/mountinfo", "29 1 259:1 / /home rw,relatime shared:1 - ext4 /dev/root rw\n")
			}},
		{name: "btrfs", function: disk, parts: []string{"nvme0n1 is mounted on /"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Write("/proc/self/mountinfo", "29 1 0:25 /@ / rw shared:1 master:2 - btrfs /dev/nvme0n1 rw\n")
			}},
		{name: "swap", function: disk, parts: []string{"nvme0n1 is swap space"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Write("/proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1 partition 1 0 -2\n")
			}},
		{name: "LVM", function: disk, parts: []string{"nvme0n1 is part of vg-root (dm-0)"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Write("/sys/devices/virtual/block/dm-0/dm/name", "vg-root\n")
				h.Link("/sys/class/block/dm-0", "/sys/devices/virtual/block/dm-0")
				h.Link(h.Folder(disk)+"/nvme/nvme0/nvme0n1/holders/dm-0", "/sys/devices/virtual/block/dm-0")
			}},
		{name: "multipath disk", function: disk, parts: []string{"nvme0n1 is mounted on /srv"},
			prepare: func(h *hosttest.Tree) {
				h.Mkdir(h.Folder(disk) + "/nvme/nvme0")
				h.Link("/sys/class/nvme/nvme0", h.Folder(disk)+"/nvme/nvme0")
				sub := "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
				h.Link("/sys/class/nvme-subsystem/nvme-subsys0", sub)
				h.Link(sub+"/nvme0", h.Folder(disk)+"/nvme/nvme0")
				h.Write(sub+"/nvme0n1/dev", "259:5\n")
				h.Link("/sys/class/block/nvme0n1", sub+"/nvme0n1")
				h.Write("/proc/self/mountinfo", "29 1 259:5 / /srv rw - xfs /dev/nvme0n1 rw\n")
			}},
		{name: "open disk", function: disk, parts: []string{"process 31 (dd) has /dev/nvme0n1 open"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Process(31, 1, "dd", "/dev/nvme0n1", "/home/nvme0n1")
			}},
		{name: "interface up", function: nicA, parts: []string{"interface eth7 is up"},
			prepare: func(h *hosttest.Tree) { h.Interface(nicA, "eth7", "0x1003") }},
		{name: "enslaved", function: nicA, parts: []string{"interface eth7 is part of br0"},
			prepare: func(h *hosttest.Tree) {
				h.Interface(nicA, "eth7", "0x1002")
				h.Link("/sys/class/net/eth7/master", "/sys/devices/virtual/net/br0")
			}},
		{name: "boot display", function: nicA, parts: []string{"the display that the machine started with"},
			prepare: func(h *hosttest.Tree) { h.Write(h.Folder(nicA)+"/boot_vga", "1\n") }},
		{name: "console", function: nicA, parts: []string{"the text console is on fb0"},
			prepare: func(h *hosttest.Tree) {
				h.Mkdir(h.Folder(nicA) + "/graphics/fb0")
				h.Link("/sys/class/graphics/fb0", h.Folder(nicA)+"/graphics/fb0")
				h.Write("/sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
				h.Write("/sys/class/vtconsole/vtcon1/bind", "1\n")
			}},
		{name: "virtual functions", function: nicA, parts: []string{"1 virtual functions"},
			prepare: func(h *hosttest.Tree) { h.Virtual(nicB, nicA, 0) }},
		{name: "mediated parent", function: nicA, parts: []string{"mediated device " + uuid + " is made of it"},
			prepare: func(h *hosttest.Tree) {
				h.Group(20, "vfio-noiommu", "unknown")
				h.Mediated(uuid, nicA, "other", 20)
			}},
		{name: "held mediated device", function: nicA, force: true, parts: []string{"process 31 (qemu) has its VFIO group 20 open"},
			prepare: func(h *hosttest.Tree) {
				h.Group(20, "vfio-noiommu", "unknown")
				h.Mediated(uuid, nicA, "other", 20)
				h.Process(31, 1, "qemu", "/dev/vfio/20")
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree, k, h := bindHost(t)
			if tt.prepare != nil {
				tt.prepare(tree)
			}
			_, err := h.Bind(bdfs(t, tt.function), hostpci.BindOptions{})
			wantError(t, err, tt.parts...)
			_, err = h.PlanBind(bdfs(t, tt.function), hostpci.BindOptions{})
			wantError(t, err, tt.parts...)
			if len(k.Writes()) != 0 {
				t.Errorf("a refused bind wrote %v", k.Writes())
			}
			_, err = h.Bind(bdfs(t, tt.function), hostpci.BindOptions{Force: true})
			if tt.force {
				wantError(t, err, tt.parts...)
			} else if err != nil {
				t.Errorf("forced: %v", err)
			}
		})
	}
}

func TestBindNamesAllThatIsWrong(t *testing.T) {
	_, _, h := bindHost(t)
	_, err := h.Bind(bdfs(t, upper, noIOM, disk), hostpci.BindOptions{})
	wantError(t, err, "is a bridge", "has no IOMMU group")
	wantEntries(t, h, 0)
}

func TestBindLoadsTheDriver(t *testing.T) {
	tree, k, h := bindHost(t)
	tree.Remove("/sys/bus/pci/drivers/vfio-pci")
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "the driver vfio-pci is not there", "Module vfio-pci not found", "full kernel")
	wantState(t, tree, disk, "nvme", "(null)")
	k.Modules = []string{"vfio-pci"}
	p, err := h.PlanBind(bdfs(t, disk), hostpci.BindOptions{})
	if err != nil || p.Module != "vfio-pci" {
		t.Errorf("plan %+v, %v", p, err)
	}
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
}

func TestRestoreLoadsTheDriver(t *testing.T) {
	tree, k, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Remove("/sys/bus/pci/drivers/nvme")
	_, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{})
	wantError(t, err, "give 0000:01:00.0 back to nvme", "modprobe nvme")
	wantState(t, tree, disk, "vfio-pci", "vfio-pci") // not torn from the one driver it has
	wantEntries(t, h, 1)
	k.Modules = []string{"nvme"}
	if _, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
}

// Each of the writes of a bind of two functions fails once, before and after it took
// effect: all is as it was, and the journal is empty.
func TestBindUndoes(t *testing.T) {
	const writes = 5 // 3 for a function with a driver, 2 for one without
	for n := range writes {
		for _, when := range []string{"before", "after"} {
			t.Run(fmt.Sprintf("%s %d", when, n), func(t *testing.T) {
				tree, k, h := bindHost(t)
				fail := func(i int, _ hostpci.Write) error {
					if i == n {
						return unix.EIO
					}
					return nil
				}
				if k.Before = fail; when == "after" {
					k.Before, k.After = nil, fail
				}
				_, err := h.Bind(bdfs(t, disk, nicB), hostpci.BindOptions{})
				if !errors.Is(err, unix.EIO) {
					t.Fatalf("error %v, want EIO", err)
				}
				wantState(t, tree, disk, "nvme", "(null)")
				wantState(t, tree, nicB, "", "(null)")
				wantEntries(t, h, 0)
			})
		}
	}
}

func TestBindUndoesWhenTheDriverDeclines(t *testing.T) {
	tree, k, h := bindHost(t)
	k.Broken = []string{"vfio-pci"}
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "bind 0000:01:00.0 to vfio-pci: the driver vfio-pci did not take it")
	wantState(t, tree, disk, "nvme", "(null)")
	wantEntries(t, h, 0)
}

// A driver that won't take its function back leaves an entry for the next attempt.
func TestRestoreFails(t *testing.T) {
	tree, k, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	k.Owned = []int{1}
	_, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{})
	wantError(t, err, "another function of its IOMMU group is in use by a guest")
	wantEntries(t, h, 1)
	k.Owned = nil
	if _, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
}

func TestWriteErrorsExplain(t *testing.T) {
	for errno, part := range map[unix.Errno]string{
		unix.EROFS:  "mounted read-only",
		unix.EACCES: "needs root",
		unix.EPERM:  "not locked down",
	} {
		_, k, h := bindHost(t)
		k.Before = func(int, hostpci.Write) error { return errno }
		_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
		wantError(t, err, "echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override", part)
	}
}

func TestUnbindOfAHeldFunctionNamesTheHolder(t *testing.T) {
	tree, k, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	tree.Process(55, 9, "qemu", "/dev/vfio/1")
	before := len(k.Writes())
	_, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{Force: true})
	wantError(t, err, "process 55 (qemu) has its VFIO group 1 open", "would not let go")
	if len(k.Writes()) != before {
		t.Errorf("wrote %v", k.Writes()[before:])
	}
}

func TestUnbindOfWhatIsNotOurs(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Bind(disk, "vfio-pci")
	tree.Write(tree.Folder(disk)+"/driver_override", "vfio-pci\n")
	_, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{})
	wantError(t, err, "was not bound to vfio-pci by stile", "--force")
	if _, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	steps, err := h.Unbind(bdfs(t, nicA), hostpci.UnbindOptions{})
	if err != nil || len(steps[0].Writes) != 0 {
		t.Errorf("unbind of a function on its own driver: %+v, %v", steps, err)
	}
	_, err = h.Unbind(bdfs(t, wrapee), hostpci.UnbindOptions{Force: true})
	wantError(t, err, "stile mdev unwrap")
}

// Whoever gives the function a third driver meanwhile keeps it.
func TestRestoreLeavesAThirdDriver(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	tree.Unbind(disk)
	tree.Driver("uio_pci_generic")
	tree.Bind(disk, "uio_pci_generic")
	tree.Write(tree.Folder(disk)+"/driver_override", "uio_pci_generic\n")
	if _, err := h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "uio_pci_generic", "uio_pci_generic")
	wantEntries(t, h, 0)
}

func TestRestoreOfAnUnpluggedFunction(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Unplug(disk)
	tree.Remove("/proc/4242")
	if _, err := h.Recover(nil); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, h, 0)
}

func TestPlansTouchNothing(t *testing.T) {
	tree, k, h := bindHost(t)
	p, err := h.PlanBind(bdfs(t, disk), hostpci.BindOptions{})
	if err != nil || len(p.Steps) != 1 || len(p.Steps[0].Writes) != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := p.Steps[0].Writes[1].String(); got != "echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/unbind" {
		t.Errorf("write reads %q", got)
	}
	if _, err := os.Stat(tree.Path("/run")); err == nil || len(k.Writes()) != 0 {
		t.Error("a plan changed something")
	}
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	p, err = h.PlanUnbind(bdfs(t, disk), hostpci.UnbindOptions{})
	if err != nil || p.Steps[0].To != "nvme" {
		t.Fatalf("%+v, %v", p, err)
	}
	var lines []string
	for _, w := range p.Steps[0].Writes {
		lines = append(lines, w.String())
	}
	want := []string{
		"echo 0000:01:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind",
		"echo > /sys/bus/pci/devices/0000:01:00.0/driver_override",
		"echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/bind",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("unbind would write %q, want %q", lines, want)
	}
}

// A process is killed before or after any write of a bind and of the unbind after it: a
// copy of the tree as it was then, without the process, is given back entirely.
func TestKilledAnywhere(t *testing.T) {
	tree, k, h := bindHost(t)
	tree.Write(tree.Folder(nicA)+"/driver_override", "e1000e\n")
	var copies []*hosttest.Tree
	snap := func(int, hostpci.Write) error {
		copies = append(copies, tree.Copy())
		return nil
	}
	k.Before, k.After = snap, snap
	functions := bdfs(t, disk, nicA, nicB)
	if _, err := h.Bind(functions, hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unbind(functions, hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(copies) != 2*len(k.Writes()) || len(copies) < 2*14 {
		t.Fatalf("%d copies of %d writes", len(copies), len(k.Writes()))
	}
	for i, after := range copies {
		after.Remove("/proc/4242")
		kernel := &hosttest.Kernel{Tree: after, Matches: k.Matches}
		survivor := hostpci.New(after.Root).WithWriter(kernel, kernel.Load)
		if _, err := survivor.Recover(nil); err != nil {
			t.Errorf("copy %d: %v", i, err)
		}
		wantState(t, after, disk, "nvme", "(null)")
		wantState(t, after, nicA, "e1000e", "e1000e")
		wantState(t, after, nicB, "", "(null)")
		wantEntries(t, survivor, 0)
		if t.Failed() {
			t.Fatalf("after copy %d", i)
		}
	}
}

func TestStaleAndKept(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	if stale, err := h.Stale(); err != nil || len(stale) != 0 {
		t.Errorf("stale while the owner runs: %v, %v", stale, err)
	}
	// The number is used again by a process that started later.
	tree.Remove("/proc/4242")
	tree.Process(hosttest.Self, hosttest.SelfStart+1, "other (with) parentheses")
	stale, err := h.Stale()
	if err != nil || len(stale) != 1 || stale[0].Address != bdf(t, disk) {
		t.Errorf("stale: %v, %v", stale, err)
	}
	steps, err := h.Recover(nil)
	if err != nil || len(steps) != 1 || steps[0].From != "vfio-pci" || steps[0].To != "nvme" {
		t.Errorf("recovered %+v, %v", steps, err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	wantState(t, tree, nicA, "vfio-pci", "vfio-pci")
	wantEntries(t, h, 1)
}

func TestRecoverSkipsWhatIsHeld(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk, nicA), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Remove("/proc/4242")
	tree.Process(31, 1, "qemu", "/dev/vfio/1")
	_, err := h.Recover(nil)
	wantError(t, err, "process 31 (qemu)")
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
	wantState(t, tree, nicA, "e1000e", "(null)")
}

// What a killed process left is given back before something else is bound.
func TestBindRecoversFirst(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Remove("/proc/4242")
	var notices []string
	tree.Write("/proc/self/stat", strings.Replace(tree.Read("/proc/self/stat"), "4242", "4300", 1))
	tree.Process(4300, hosttest.SelfStart, "stile")
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Notice: func(s string) { notices = append(notices, s) }}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	if len(notices) != 1 || !strings.Contains(notices[0], "gave 0000:01:00.0 back to nvme") {
		t.Errorf("notices %q", notices)
	}
}

func TestBoundByAnother(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Write("/proc/self/stat", strings.Replace(tree.Read("/proc/self/stat"), "4242", "4300", 1))
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "was bound by a stile that still runs (process 4242)")
	_, err = h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{})
	wantError(t, err, "process 4242", "gives it back itself")
}

func TestJournalOfAnotherBoot(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	tree.Write("/proc/sys/kernel/random/boot_id", "another\n")
	wantEntries(t, h, 0)
}

func TestJournalDamagedOrNewer(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Write("/run/stile/bindings.json", "{")
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "/run/stile/bindings.json is damaged")
	tree.Write("/run/stile/bindings.json", `{"version": 9}`)
	_, err = h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "version 9")
	wantState(t, tree, disk, "nvme", "(null)")
}

func TestJournalText(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(tree.Read("/run/stile/bindings.json")), &got); err != nil {
		t.Fatal(err)
	}
	if got["boot_id"] != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("journal %v", got)
	}
	entry := got["entries"].([]any)[0].(map[string]any)
	if entry["address"] != disk || entry["driver"] != "nvme" || entry["phase"] != "bound" {
		t.Errorf("entry %v", entry)
	}
}

// A write that the kernel holds up is told of, and goes on.
func TestSlowWriteIsTold(t *testing.T) {
	tree, k, h := bindHost(t)
	h.WithPatience(time.Second, time.Millisecond)
	told := make(chan string, 1)
	k.Before = func(n int, _ hostpci.Write) error {
		if n == 1 {
			if text := <-told; !strings.Contains(text, "waiting for the kernel: echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/unbind") {
				t.Errorf("notice %q", text)
			}
		}
		return nil
	}
	notice := func(text string) { told <- text }
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Notice: notice}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
}

// While one call changes something, another waits, and gives up with the process named.
func TestJournalIsLocked(t *testing.T) {
	_, k, h := bindHost(t)
	other := h.WithWriter(k, k.Load).WithPatience(time.Millisecond, time.Second)
	k.Before = func(n int, _ hostpci.Write) error {
		if n == 0 {
			_, err := other.Bind(bdfs(t, nicA), hostpci.BindOptions{})
			wantError(t, err, fmt.Sprintf("another stile (process %d)", os.Getpid()))
		}
		return nil
	}
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Bind(bdfs(t, nicA), hostpci.BindOptions{}); err != nil {
		t.Errorf("after the first is done: %v", err)
	}
	wantEntries(t, h, 2)
}

// Many calls at once each leave their entry.
func TestBindAtOnce(t *testing.T) {
	tree, _, h := bindHost(t)
	functions := bdfs(t, disk, nicA, nicB)
	errs := make(chan error)
	for _, b := range functions {
		go func() {
			_, err := h.Bind([]hostpci.BDF{b}, hostpci.BindOptions{Keep: true})
			errs <- err
		}()
	}
	for range functions {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantEntries(t, h, len(functions))
	for _, b := range functions {
		wantState(t, tree, b.String(), "vfio-pci", "vfio-pci")
	}
}

func TestEndpoints(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Add(hosttest.Function{Address: "0000:07:00.1", Group: 7})
	s, err := h.Scan()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int][]hostpci.BDF{3: bdfs(t, nicA, nicB), 7: bdfs(t, "0000:07:00.1")} {
		if got, err := s.Endpoints(id); err != nil || !slices.Equal(got, want) {
			t.Errorf("group %d: %v, %v", id, got, err)
		}
	}
	_, err = s.Endpoints(4)
	wantError(t, err, "has no function that can be bound")
	_, err = s.Endpoints(99)
	wantError(t, err, "no IOMMU group 99")
}
