package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// labThree are the functions of one group.
var labThree = []string{labEduOf3, "0000:02:00.1", "0000:02:00.2"}

// wrappedLab is a nested host with the lab's own kernel, for which the module was built here: in there it would take a minute.
func wrappedLab(t *testing.T) passed {
	t.Helper()
	needGuests(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	k, ok := kbuild.Cached(cache, kbuild.Options{})
	if !ok {
		testenv.Missing(t, "kernel-build", "it is not in the cache")
	}
	if err := buildModule(t.Context(), cache, k); err != nil {
		t.Fatal(err)
	}
	return passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "all", Kernel: guest.LabKernelBuilt})}
}

// stile runs a command in the nested host that must succeed, and returns what it prints.
func (p passed) stile(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := p.nested(t, args...)
	if status != 0 {
		t.Fatalf("stile %q: status %d: %s", args, status, stderr)
	}
	return stdout
}

// fails runs a command in the nested host that must be refused, for a reason.
func (p passed) fails(t *testing.T, args []string, why ...string) {
	t.Helper()
	status, _, stderr := p.nested(t, args...)
	for _, w := range why {
		if status == 0 || !strings.Contains(stderr, w) {
			t.Errorf("stile %q: status %d, without %q: %s", args, status, w, stderr)
		}
	}
}

// wrap wraps functions, and returns the flags that pass them through.
func (p passed) wrap(t *testing.T, functions ...string) (flags []string) {
	t.Helper()
	for _, f := range functions {
		uuid, _, _ := strings.Cut(p.stile(t, "mdev", "wrap", f), "\n")
		flags = append(flags, "--device", uuid)
	}
	return flags
}

// unwrap gives functions back to their drivers.
func (p passed) unwrap(t *testing.T, drivers map[string]string) {
	t.Helper()
	for f, want := range drivers {
		p.stile(t, "mdev", "unwrap", f)
		if d := p.driver(t, f); d != want {
			t.Errorf("%s was given back to %s, not to %s", f, d, want)
		}
	}
}

// TestWrapped gives guests wrapped functions, and devices of the kernel's sample drivers.
func TestWrapped(t *testing.T) {
	p := wrappedLab(t)
	t.Run("as with vfio-pci", func(t *testing.T) { asPlain(t, p) })
	t.Run("reboot", func(t *testing.T) { wrappedReboot(t, p) })
	t.Run("four functions", func(t *testing.T) { fourWrapped(t, p) })
	t.Run("samples", func(t *testing.T) { samples(t, p) })
	t.Run("in use", func(t *testing.T) { wrappedInUse(t, p) })
	t.Run("refused", func(t *testing.T) { wrapRefused(t, p) })
}

// fourWrapped has DMA, MSI, MSI-X, INTx and resets of functions of two groups, all of them wrapped.
func fourWrapped(t *testing.T, p passed) {
	hardware := filepath.Join(tools, "hardware")
	devices := p.wrap(t, append([]string{labNVMe}, labThree...)...)
	script := strings.Join([]string{
		"set -e", hardware + " edu 0x1234:0x11e8", hardware + " msi 0x1234:0x11e8",
		"until [ -b /dev/nvme0n1 ]; do sleep 0.1; done",
		"dd if=/dev/urandom of=/tmp/a bs=64k count=4 2>/dev/null", "dd if=/tmp/a of=/dev/nvme0n1 bs=64k oflag=direct 2>/dev/null",
		"dd if=/dev/nvme0n1 of=/tmp/b bs=64k count=4 iflag=direct 2>/dev/null", "cmp /tmp/a /tmp/b", "grep nvme0q1 /proc/interrupts",
		"echo 0000:00:04.0 > /sys/bus/pci/drivers/nvme/unbind", hardware + " decode 0x1b36:0x0010", "set +e", linkScript,
	}, "\n")
	out := p.guest(t, script, append(devices, "--vfio", "legacy", "-a", "e1000e.IntMode=0", "--json", nestedReport)...)
	for what, n := range map[string]int{"fine": 5, "PCI-MSIX-": 1, "IO-APIC": 1, "carrier=1": 1, "sent=0": 0} {
		if strings.Count(out, what) != n {
			t.Errorf("%d times %q, want %d: %s", strings.Count(out, what), what, n, out)
		}
	}
	r := p.report(t).Passthrough
	if len(r.Devices) != 4 || r.Devices[0].Group == r.Devices[1].Group || r.Devices[1].Group != r.Devices[3].Group || r.IOCTLs["VFIO_GROUP_SET_CONTAINER"] != 2 {
		t.Errorf("two groups, of one function and of three: %+v", r)
	}
	p.unwrap(t, map[string]string{labNVMe: "nvme", labEduOf3: ".", "0000:02:00.1": ".", "0000:02:00.2": "e1000e"})
}

// asPlain compares a wrapped disk with one on vfio-pci: what is asked of the kernel, and what the guest's accesses cost.
func asPlain(t *testing.T, p passed) {
	const script = `until [ -b /dev/nvme0n1 ]; do sleep 0.1; done; dd if=/dev/nvme0n1 of=/dev/null bs=4k count=200 iflag=direct 2>/dev/null; grep nvme0q1 /proc/interrupts`
	type work struct {
		Exits      uint64
		IOCTLs     map[string]uint64
		Interrupts any
		Mapped     uint64
		Config     [2]uint64
		Failed     uint64
	}
	measure := func(name string, flags ...string) (work, string) {
		out := p.guest(t, script, append(flags, "--vfio", "iommufd", "--json", nestedReport)...)
		r := p.report(t)
		d := r.Passthrough.Devices[0]
		if d.Name != name {
			t.Errorf("device %s, want %s", d.Name, name)
		}
		return work{r.Devices[d.Name], d.IOCTLs, d.Interrupts, d.MappedBytes, [2]uint64{d.ConfigReads, d.ConfigWrites}, d.Failed}, out
	}
	plain, out := measure(labNVMe, "--device", labNVMe+",bind")
	t.Log(out)
	flags := p.wrap(t, labNVMe)
	wrapped, out := measure(flags[1], flags...)
	t.Log(out)
	if diff := cmp.Diff(plain, wrapped); diff != "" {
		t.Errorf("(-plain +wrapped):\n%s", diff)
	}
	p.unwrap(t, map[string]string{labNVMe: "nvme"})
}

// wrappedReboot has a guest reboot with wrapped functions: see TestPassthroughReboot.
func wrappedReboot(t *testing.T, p passed) {
	initramfs := filepath.Join(t.TempDir(), "init.cpio")
	if err := makeInitramfs(initramfs, "hardware"); err != nil {
		t.Fatal(err)
	}
	flags := append(p.wrap(t, labEdu, labNVMe), "-i", initramfs, "--on-reboot", "reset", "--json", nestedReport, "-a", "EDU=0x1234:0x11e8", "-a", "BOOTS=2")
	stdout := p.stile(t, append([]string{"run", "-m", guestMemory, "-a", "quiet"}, flags...)...)
	if !strings.Contains(stdout, "boot 1 is fine") || !strings.Contains(stdout, "boot 2 is fine") {
		t.Error(stdout)
	}
	checkReboots(t, p.report(t), 1)
	p.unwrap(t, map[string]string{labEdu: ".", labNVMe: "nvme"})
}

// samples has a guest with devices of the kernel's samples, whose drivers emulate all of them, and a wrapped function.
func samples(t *testing.T, p passed) {
	hardware := filepath.Join(tools, "hardware")
	load := "for m in mtty mdpy; do insmod /lib/modules/$(uname -r)/kernel/samples/vfio-mdev/$m.ko || exit; done"
	if out, err := p.Command(t.Context(), "sh", "-c", load).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	flags := p.wrap(t, labEdu)
	for parent, kind := range map[string]string{"mtty": "mtty-2", "mdpy": "mdpy-vga"} {
		flags = append(flags, "--device", strings.TrimSpace(p.stile(t, "mdev", "create", parent, kind)))
	}
	script := strings.Join([]string{"set -e", hardware + " edu 0x1234:0x11e8", hardware + " serial 0x4348:0x3253", hardware + " picture 0x1b36:0x000f"}, "\n")
	out := p.guest(t, script, append(flags, "--vfio", "iommufd")...)
	if strings.Count(out, "fine") != 3 || !strings.Contains(out, "2 ports") || !strings.Contains(out, "640x480") {
		t.Error(out)
	}
	for i := 3; i < len(flags); i += 2 {
		p.stile(t, "mdev", "remove", flags[i])
	}
	p.unwrap(t, map[string]string{labEdu: "."})
}

// wrappedInUse has two guests that want functions of one group, and takes the parent of the first one's.
func wrappedInUse(t *testing.T, p passed) {
	devices := p.wrap(t, labThree...)
	var stderr bytes.Buffer
	cmd := p.sleeper(t, &stderr, devices[:2]...)
	p.refused(t, devices[2:4], "in use by process", "stile")
	p.fails(t, []string{"mdev", "unwrap", labEduOf3}, "is in use: process", "stile")
	p.fails(t, []string{"mdev", "remove", devices[1]}, "is in use: process", "stile")
	if list := p.stile(t, "mdev", "list"); strings.Count(list, "held by process") != 3 {
		t.Errorf("holders: %s", list)
	}
	out, err := p.Command(t.Context(), "sh", "-c", "echo "+labEduOf3+" > /sys/bus/pci/drivers/vfio-mdev-pci/unbind").CombinedOutput()
	if err != nil {
		t.Errorf("unbind: %v %s", err, out)
	}
	_ = cmd.Wait()
	if cmd.ExitCode() != guest.ExitDied || !strings.Contains(stderr.String(), "the host wants "+devices[1]+" back") {
		t.Errorf("status %d: %s", cmd.ExitCode(), &stderr)
	}
	p.unwrap(t, map[string]string{labEduOf3: ".", "0000:02:00.1": ".", "0000:02:00.2": "e1000e"})
}

// wrapRefused: what can't be wrapped, and UUIDs that can't be had.
func wrapRefused(t *testing.T, p passed) {
	p.fails(t, []string{"mdev", "wrap", "0000:03:00.0"}, "is a bridge")
	p.fails(t, []string{"mdev", "wrap", labEdu, "--uuid", "83b8f4f2"}, "is no UUID")
	const open = `for i in $(seq 100); do n=$(ls /sys/bus/pci/devices/$1/nvme) && exec 3< /dev/$n && break; sleep 0.1; done 2>/dev/null; exec "$2" mdev wrap $1`
	out, _ := p.Command(t.Context(), "bash", "-c", open, "bash", labNVMe, filepath.Join(tools, "stile")).CombinedOutput()
	if !strings.Contains(string(out), "in use on this host") || !strings.Contains(string(out), " open") {
		t.Errorf("a disk that is open: %s", out)
	}
	uuid := p.wrap(t, labEdu)[1]
	p.fails(t, []string{"mdev", "wrap", labNIC, "--uuid", uuid}, uuid+" is a mediated device of "+labEdu+" already")
	p.fails(t, []string{"mdev", "create", labEdu, "type1"}, "no instance of the type is left", uuid)
	p.unwrap(t, map[string]string{labEdu: "."})
	if d := p.driver(t, labNVMe); d != "nvme" {
		t.Errorf("something was changed: the disk's driver is %s", d)
	}
}
