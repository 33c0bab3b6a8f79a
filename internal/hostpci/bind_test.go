package hostpci_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

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

	display = "0000:0c:00.0"
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

// virtio makes a function's virtio device.
func virtio(h *hosttest.Tree, function, driver, tag string) {
	dir := h.Folder(function) + "/virtio0"
	h.Write(dir+"/mount_tag", tag)
	h.Link(dir+"/driver", "/sys/bus/virtio/drivers/"+driver)
	h.Link("/sys/bus/virtio/devices/virtio0", dir)
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
		{name: "root on btrfs", function: disk, force: true, parts: []string{"nvme0n1 is mounted on /", "--force does not change that"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Write("/proc/self/mountinfo", "29 1 0:25 /@ / rw shared:1 master:2 - btrfs /dev/nvme0n1 rw\n")
			}},
		{name: "swap", function: disk, force: true, parts: []string{"nvme0n1 is swap space"},
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
		{name: "root on LVM", function: disk, force: true, parts: []string{"nvme0n1 is part of vg-root (dm-0), and dm-0 is mounted on /"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Write("/sys/devices/virtual/block/dm-0/dm/name", "vg-root\n")
				h.Write("/sys/devices/virtual/block/dm-0/dev", "254:0\n")
				h.Link("/sys/class/block/dm-0", "/sys/devices/virtual/block/dm-0")
				h.Link(h.Folder(disk)+"/nvme/nvme0/nvme0n1/holders/dm-0", "/sys/devices/virtual/block/dm-0")
				h.Write("/proc/self/mountinfo", "29 1 254:0 / /home rw - ext4 /dev/mapper/vg-root rw\n30 1 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n")
			}},
		{name: "mounted elsewhere", function: disk, parts: []string{"the kernel has nvme0n1p1 in use"},
			prepare: func(h *hosttest.Tree) {
				h.Disk(disk, "nvme0n1", "259:0")
				h.Disk(disk, "nvme0n1p1", "259:1")
			}},
		{name: "lab's channel", function: nicA, force: true, parts: []string{"stile steers this machine through it", "--force does not change that"},
			prepare: func(h *hosttest.Tree) {
				h.Write(h.Folder(nicA)+"/virtio0/virtio-ports/vport0p1/name", "stile.agent\n")
				h.Link("/sys/class/virtio-ports/vport0p1", h.Folder(nicA)+"/virtio0/virtio-ports/vport0p1")
			}},
		{name: "open port", function: nicA, parts: []string{"process 31 (qemu-ga) has /dev/vport0p1 open"},
			prepare: func(h *hosttest.Tree) {
				h.Write(h.Folder(nicA)+"/virtio0/virtio-ports/vport0p1/name", "org.qemu.guest_agent.0\n")
				h.Link("/sys/class/virtio-ports/vport0p1", h.Folder(nicA)+"/virtio0/virtio-ports/vport0p1")
				h.Process(31, 1, "qemu-ga", "/dev/vport0p1")
			}},
		{name: "share", function: nicA, force: true, parts: []string{"the shared folder host is mounted on /mnt"},
			prepare: func(h *hosttest.Tree) {
				virtio(h, nicA, "9pnet_virtio", "host\x00")
				h.Write("/proc/self/mountinfo", "29 1 0:25 / /mnt rw - 9p host rw,trans=virtio\n")
			}},
		{name: "share below the root", function: nicA, force: true, parts: []string{"the shared folder host may be below the overlay that is the root"},
			prepare: func(h *hosttest.Tree) {
				virtio(h, nicA, "9pnet_virtio", "host\n")
				h.Write("/proc/self/mountinfo", "29 1 0:25 / / rw - overlay overlay rw,lowerdir=/.stile/0/lower\n")
			}},
		{name: "root by virtiofs", function: nicA, force: true, parts: []string{"the shared folder myfs is mounted on /, perhaps from it"},
			prepare: func(h *hosttest.Tree) {
				virtio(h, nicA, "virtiofs", "")
				h.Write("/proc/self/mountinfo", "29 1 0:25 / / rw - virtiofs myfs rw\n")
			}},
		{name: "serial console", function: nicA, parts: []string{"the kernel's console ttyS4 is on it"},
			prepare: func(h *hosttest.Tree) {
				h.Mkdir(h.Folder(nicA) + "/tty/ttyS4")
				h.Link("/sys/class/tty/ttyS4", h.Folder(nicA)+"/tty/ttyS4")
				h.Write("/proc/consoles", "ttyS4                -W- (EC p  )    4:68\n")
			}},
		{name: "virtio console", function: nicA, parts: []string{"the kernel's console hvc0 may be on it"},
			prepare: func(h *hosttest.Tree) {
				h.Write(h.Folder(nicA)+"/virtio0/virtio-ports/vport0p0/name", "\n")
				h.Link("/sys/class/virtio-ports/vport0p0", h.Folder(nicA)+"/virtio0/virtio-ports/vport0p0")
				h.Write("/proc/consoles", "hvc0                 -W- (EC p  )  229:0\n")
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
		{name: "boot display", function: display, parts: []string{"the display that the machine started with"},
			prepare: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: display, Group: 12, Driver: "i915", Class: "030000"})
				h.Write(h.Folder(display)+"/boot_vga", "1\n")
			}},
		{name: "console", function: nicA, parts: []string{"the text console is on fb0"},
			prepare: func(h *hosttest.Tree) {
				h.Mkdir(h.Folder(nicA) + "/graphics/fb0")
				h.Link("/sys/class/graphics/fb0", h.Folder(nicA)+"/graphics/fb0")
				h.Write("/sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
				h.Write("/sys/class/vtconsole/vtcon1/bind", "1\n")
			}},
		{name: "virtual functions", function: nicA, parts: []string{"1 virtual function of it ends with its driver"},
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
			if tt.name == "mounted elsewhere" {
				h.WithClaimed("/dev/nvme0n1p1")
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
}

// A wrapped function is given back by its driver's name, but not while its mediated
// device is there, which would end in silence.
func TestUnbindOfAWrappedFunction(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Driver("vfio-mdev-pci")
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Driver: "vfio-mdev-pci", Keep: true}); err != nil {
		t.Fatal(err)
	}
	tree.Mediated(uuid, nicA, "vfio-mdev-pci", 3)
	_, err := h.Unbind(bdfs(t, nicA), hostpci.UnbindOptions{})
	wantError(t, err, "wrapped as mediated device "+uuid, "stile mdev unwrap 0000:03:00.0")
	tree.Remove("/sys/bus/mdev/devices/" + uuid)
	if _, err := h.Unbind(bdfs(t, nicA), hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, nicA, "e1000e", "(null)")
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

// A function that is named twice is bound once.
func TestBindTwiceNamed(t *testing.T) {
	tree, k, h := bindHost(t)
	steps, err := h.Bind(bdfs(t, disk, disk), hostpci.BindOptions{})
	if err != nil || len(steps) != 1 || len(k.Writes()) != 3 {
		t.Errorf("%+v, %v", steps, err)
	}
	if steps, err = h.Unbind(bdfs(t, disk, disk), hostpci.UnbindOptions{}); err != nil || len(steps) != 1 {
		t.Errorf("%+v, %v", steps, err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
}
