package main

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/vmtest"
)

// Functions of the topology "all".
const (
	labChannel  = "0000:00:04.0" // of the lab itself
	labShare    = "0000:00:05.0" // so is this one
	labEdu      = "0000:01:00.0"
	labEduOf3   = "0000:02:00.0" // with .1, and an e1000e as .2
	labNIC      = "0000:06:00.0"
	labBridged  = "0000:04:01.0" // with 04:02.0, and an e1000e as 04:03.0
	labPF       = "0000:07:00.0" // and 07:00.1, once it is split
	labNVMe     = "0000:05:00.0"
	guestMemory = "128M" // what is passed through must have all of it in place
)

// passed is a nested host in which stile runs.
type passed struct{ *vmtest.VM }

// nested runs stile in the nested host and returns its status, stdout and stderr.
func (p passed) nested(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := p.Command(t.Context(), filepath.Join(tools, "stile"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ExitCode() == 0 {
		t.Fatalf("stile %q: %v", args, err)
	}
	return cmd.ExitCode(), out.String(), errs.String()
}

// guest runs a shell command in a guest with devices, which must succeed. Its $1 is the program that tries hardware.
func (p passed) guest(t *testing.T, script string, flags ...string) string {
	t.Helper()
	args := append([]string{"run", "-m", guestMemory}, flags...)
	status, stdout, stderr := p.nested(t, append(args, "--", "sh", "-c", script, "sh", filepath.Join(tools, "hardware"))...)
	if status != 0 {
		t.Fatalf("status %d, stdout %s\nstderr %s", status, stdout, stderr)
	}
	return stdout
}

// refused runs stile with devices that can't be had, and looks for why in what it says.
func (p passed) refused(t *testing.T, flags []string, why ...string) {
	t.Helper()
	status, _, stderr := p.nested(t, append(append([]string{"run", "-m", guestMemory}, flags...), "--", "true")...)
	if status != guest.ExitSetup {
		t.Errorf("%q: status %d", flags, status)
	}
	for _, w := range why {
		if !strings.Contains(stderr, w) {
			t.Errorf("%q: stile says %q, without %q", flags, stderr, w)
		}
	}
}

// driver returns the driver of a function of the nested host.
func (p passed) driver(t *testing.T, bdf string) string {
	t.Helper()
	out, _ := p.Command(t.Context(), "readlink", "/sys/bus/pci/devices/"+bdf+"/driver").Output() // status 1 without a driver
	return filepath.Base(strings.TrimSpace(string(out)))
}

// linkScript brings the guest's only network device of a slot up and prints whether it has a link, what its
// interrupts are and whether some came.
const linkScript = `cd /sys/class/net; for n in *; do [ -e $n/device/vendor ] && break; done
{ ip link set $n up || ifconfig $n up; } 2>/dev/null
for i in $(seq 200); do [ "$(cat $n/carrier 2>/dev/null)" = 1 ] && break; sleep 0.1; done
for i in $(seq 100); do [ "$(cat $n/statistics/tx_packets)" -gt 0 ] && break; sleep 0.1; done
echo carrier=$(cat $n/carrier) sent=$(cat $n/statistics/tx_packets); grep $n /proc/interrupts`

func TestPassthrough(t *testing.T) {
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "all"})}
	for backend, interrupt := range map[string]string{"iommufd": "IO-APIC", "legacy": "PCI-MSIX-"} {
		t.Run(backend, func(t *testing.T) { threeKinds(t, p, backend, interrupt) })
	}
	t.Run("groups", func(t *testing.T) { wholeGroups(t, p) })
	t.Run("virtual function", func(t *testing.T) { virtualFunction(t, p) })
	t.Run("refused", func(t *testing.T) {
		p.refused(t, []string{"--device", labEduOf3 + ",bind"}, "not viable", "0000:02:00.2", "e1000e", "stile bind")
		p.refused(t, []string{"--device", labNIC}, "e1000e", labNIC+",bind")
		p.refused(t, []string{"--device", "0000:33:00.0"}, "0000:33:00.0")
		p.refused(t, []string{"--device", labNIC + ",steal"}, "steal")
		p.refused(t, []string{"--device", labShare}, "the shared folder host", "stays with the host")
		for _, force := range []string{"--force=false", "--force"} {
			p.fails(t, []string{"bind", force, labChannel}, labChannel, "stile steers this machine through it", "--force does not change that")
			p.fails(t, []string{"bind", force, labShare}, labShare, "the shared folder host", "--force does not change that")
		}
		p.refused(t, []string{"--hugepages", "-m", "1600M"}, "not enough for 1600M", "800 in /proc/sys/vm/nr_hugepages")
		if d := p.driver(t, labNIC); d != "e1000e" {
			t.Errorf("something was changed: the NIC's driver is %s", d)
		}
	})
	t.Run("without root", func(t *testing.T) { unprivileged(t, p) })
	t.Run("held", func(t *testing.T) { held(t, p) })
	t.Run("killed", func(t *testing.T) { killed(t, p) })
	t.Run("unplug", func(t *testing.T) { unplug(t, p) })
}

// threeKinds gives a guest an edu, a NIC and a disk: registers, DMA and INTx, MSI, a link with the kind of interrupt
// named, and a BAR that stops decoding in all ways while a CPU reads it.
func threeKinds(t *testing.T, p passed, backend, interrupt string) {
	mode := map[string]string{"IO-APIC": "0", "PCI-MSIX-": "2"}[interrupt]
	out := p.guest(t, `set -e; h=$1; $h edu 0x1234:0x11e8; $h msi 0x1234:0x11e8; echo 0000:00:06.0 > /sys/bus/pci/drivers/nvme/unbind; $h decode 0x1b36:0x0010
set +e; `+linkScript, "-c", "2", "--vfio", backend, "-a", "e1000e.IntMode="+mode, "--device", labEdu+",bind", "--device", labNIC+",bind",
		"--device", labNVMe+",bind")
	t.Log(out)
	if strings.Count(out, "fine") != 3 || !strings.Contains(out, "carrier=1") || strings.Contains(out, "sent=0") || !strings.Contains(out, interrupt) {
		t.Error("not all is as it should be")
	}
	for bdf, want := range map[string]string{labEdu: ".", labNIC: "e1000e", labNVMe: "nvme"} {
		if d := p.driver(t, bdf); d != want {
			t.Errorf("%s was given back to %s", bdf, d)
		}
	}
}

// wholeGroups gives a guest three functions of a slot and three behind a bridge.
func wholeGroups(t *testing.T, p passed) {
	// One on for good, so that it has BARs that the others reach.
	out := p.guest(t, "cat /sys/bus/pci/devices/*/device; $1 edu 0x1234:0x11e8; echo 1 > $(dirname $(grep -l 0x11e8 /sys/bus/pci/devices/*/device | head -1))/enable",
		"--json", nestedReport, "--vfio", "legacy", "--hugepages", "--device", labEduOf3+",bind", "--device", "02:00.1,bind",
		"--device", "/sys/bus/pci/devices/0000:02:00.2,bind", "--device", labBridged+",bind", "--device", "04:02.0,bind", "--device", "04:03.0,bind")
	if strings.Count(out, "0x11e8") != 4 || strings.Count(out, "0x10d3") != 2 || strings.Count(out, "fine") != 4 {
		t.Error(out)
	}
	if d := p.driver(t, "0000:04:03.0"); d != "e1000e" {
		t.Errorf("the NIC was given back to %s", d)
	}
	r := p.report(t)
	if n := r.Passthrough.IOCTLs["VFIO_IOMMU_MAP_DMA"]; len(r.Passthrough.Maps) != 1 || n < 2 {
		t.Errorf("%d maps of RAM, %d maps with those of BARs", len(r.Passthrough.Maps), n)
	}
	if n := r.Passthrough.IOCTLs["VFIO_GROUP_SET_CONTAINER"]; n != 2 || len(r.Passthrough.Devices) != 6 {
		t.Errorf("the two groups of %d devices were opened %d times", len(r.Passthrough.Devices), n)
	}
	var resets uint64
	for _, d := range r.Passthrough.Devices {
		if strings.HasPrefix(d.Name, "0000:04") {
			resets += d.IOCTLs["VFIO_DEVICE_PCI_HOT_RESET"]
		}
	}
	if resets != 1 {
		t.Errorf("the bus behind the bridge was reset %d times for two devices that can't be reset alone", resets)
	}
}

// defaultKernel returns the path of the kernel that stile boots when none is named.
func defaultKernel(t *testing.T) string {
	t.Helper()
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := cache.DefaultKernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

// unprivileged runs stile as a user who has been given the device's files, with too small a memlock limit
// and with one that will do.
func unprivileged(t *testing.T, p passed) {
	kernel := defaultKernel(t)
	const user = "65534"
	// The remedy is tried as it is told: "raise the limit with ulimit -l 131072, ...".
	script := `set -e; mkdir /tmp/user; cp $2 /tmp/user/vmlinuz; cp $1 /tmp/user/stile; chown -R ` + user + ` /tmp/user; chmod 755 /tmp/user /tmp/user/*; cd /tmp/user
$1 bind ` + labEdu + ` >/dev/null; chmod 666 /dev/kvm
export STILE_CACHE=/tmp/user TMPDIR=/tmp/user
run() { setpriv --reuid ` + user + ` --clear-groups /tmp/user/stile run -k /tmp/user/vmlinuz -m ` + guestMemory + ` --vfio $1 --device ` + labEdu + ` -- true; }
(ulimit -l 262144; run legacy) || echo status $?
chmod 666 /dev/vfio/vfio /dev/vfio/[0-9]* /dev/iommu /dev/vfio/devices/*
for backend in legacy iommufd; do
	run $backend 2>/tmp/user/why || echo status $?; cat /tmp/user/why
	(ulimit -l $(sed -n 's/.*with ulimit -l \([0-9]*\),.*/\1/p' /tmp/user/why); run $backend && echo $backend works)
done
$1 unbind ` + labEdu
	out, err := p.Command(t.Context(), "bash", "-c", script, "bash", filepath.Join(tools, "stile"), kernel).CombinedOutput()
	for want, times := range map[string]int{
		"no permission for this file": 1, "status 125": 3, "RLIMIT_MEMLOCK": 2, "legacy works": 1, "iommufd works": 1,
	} {
		if strings.Count(string(out), want) != times {
			t.Errorf("%q should be there %d times, %v: %s", want, times, err, out)
		}
	}
}

// virtualFunction gives a guest a virtual function of an nvme, whose driver there works with it, while the physical
// function stays with the host's driver, and can't be had meanwhile.
func virtualFunction(t *testing.T, p passed) {
	if out, err := p.Command(t.Context(), filepath.Join(tools, "hardware"), "secondary", labPF).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.refused(t, []string{"--device", labPF + ",bind"}, "virtual function")
	out := p.guest(t, `for i in $(seq 200); do [ "$(cat /sys/class/nvme/nvme0/state)" = live ] && break; sleep 0.1; done
		cat /sys/class/nvme/nvme0/state /sys/class/nvme/nvme0/device/device; grep nvme0q1 /proc/interrupts`, "--device", "07:00.1,bind")
	if !strings.Contains(out, "live") || !strings.Contains(out, "0x0010") || !strings.Contains(out, "PCI-MSIX-") {
		t.Error(out)
	}
	if d := p.driver(t, labPF); d != "nvme" {
		t.Errorf("the physical function's driver is %s", d)
	}
}

// sleeper starts a guest with a device, which sleeps, and returns when it runs.
func (p passed) sleeper(t *testing.T, stderr *bytes.Buffer, flags ...string) *vmtest.Cmd {
	t.Helper()
	args := append(append([]string{"run", "-m", guestMemory}, flags...), "--", "sh", "-c", "echo ready; exec sleep 1000")
	cmd := p.Command(t.Context(), filepath.Join(tools, "stile"), args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.SetReadDeadline(time.Now().Add(processLimit)); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the guest said %q, %v: %s", line, err, stderr)
	}
	return cmd
}

// held kills a stile that has a device. Meanwhile others are told who has it, and later ones give it back.
func held(t *testing.T, p passed) {
	var stderr bytes.Buffer
	cmd := p.sleeper(t, &stderr, "--device", labNIC+",bind")
	p.refused(t, []string{"--device", labNIC}, "in use by process", "stile")
	if err := cmd.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if d := p.driver(t, labNIC); d != "vfio-pci" {
		t.Errorf("the driver is %s after a kill", d)
	}
	status, stdout, text := p.nested(t, "unbind", "--stale")
	if d := p.driver(t, labNIC); status != 0 || d != "e1000e" {
		t.Errorf("status %d, the driver is %s: %s%s", status, d, stdout, text)
	}
}

// killed kills stile at points all over a run, more of them at its beginning, where the device is bound and attached: each
// time the device comes back, and the next run has it.
func killed(t *testing.T, p passed) {
	for i := range 20 {
		args := []string{"run", "-m", guestMemory, "--device", labNIC + ",bind", "--", "true"}
		cmd := p.Command(t.Context(), filepath.Join(tools, "stile"), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 8 * time.Millisecond)
		if err := cmd.Signal(syscall.SIGKILL); err != nil {
			t.Logf("point %d: %v", i, err) // it has ended
		}
		_ = cmd.Wait()
		status, _, stderr := p.nested(t, "unbind", "--stale")
		if d := p.driver(t, labNIC); status != 0 || d != "e1000e" {
			t.Errorf("point %d: status %d, the driver is %s: %s", i, status, d, stderr)
		}
	}
	p.guest(t, "true", "--device", labNIC+",bind")
}

// unplug takes the device of a running guest: the VM ends, and the unbind does with it.
func unplug(t *testing.T, p passed) {
	var stderr bytes.Buffer
	cmd := p.sleeper(t, &stderr, "--device", labEdu+",bind")
	out, err := p.Command(t.Context(), "sh", "-c", "echo "+labEdu+" > /sys/bus/pci/drivers/vfio-pci/unbind").CombinedOutput()
	if err != nil {
		t.Errorf("unbind: %v %s", err, out)
	}
	_ = cmd.Wait()
	if cmd.ExitCode() != guest.ExitDied || !strings.Contains(stderr.String(), "the host wants "+labEdu+" back") {
		t.Errorf("status %d: %s", cmd.ExitCode(), &stderr)
	}
}

// optionROM returns an expansion ROM: one image of size bytes, which its header tells in units of 512 (PCI 3.0, 6.3.1).
func optionROM(size int) []byte {
	const data = 0x1c // of the structure that the header points to
	rom := make([]byte, size)
	for i := range rom {
		rom[i] = byte(i * 7)
	}
	copy(rom, []byte{0x55, 0xaa, 0x18: data, 0})
	copy(rom[data:], "PCIR")
	copy(rom[data+0x10:], []byte{byte(size / 512), byte(size / 512 >> 8), 0, 0, 0, 0x80})
	return rom
}

// TestPassthroughDisk gives a guest an nvme whose contents are a file here, and which has a ROM.
func TestPassthroughDisk(t *testing.T) {
	dir := t.TempDir()
	disk, rom, topology := filepath.Join(dir, "disk"), filepath.Join(dir, "rom"), filepath.Join(dir, "t.json")
	content := strings.Repeat("0123456789abcde\n", 1<<16)
	text := fmt.Sprintf(`{"name": "disk", "iommu": true, "interrupt_remapping": true, "ports": [{"devices": [{"kind": "nvme", "file": %q, "rom": %q}]},
		{"devices": [{"kind": "ivshmem", "size_mib": 1}]}, {"devices": [{"kind": "testdev"}]}]}`, disk, rom)
	romText := string(optionROM(64 << 10))
	for name, data := range map[string]string{disk: content, rom: romText, topology: text} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: topology})}
	out := p.guest(t, `until [ -b /dev/nvme0n1 ]; do sleep 0.1; done; dd if=/dev/nvme0n1 bs=1M count=1 iflag=direct 2>/dev/null | md5sum
		cd /sys/class/nvme/nvme0/device; echo 1 > rom; md5sum < rom; cd /
		printf written | dd of=/dev/nvme0n1 conv=notrunc,fsync 2>/dev/null; $1 memory 0x1af4:0x1110; cat /proc/ioports
		echo queues=$(grep -c 'nvme0q[1-4]' /proc/interrupts)`,
		"-c", "4", "--json", nestedReport, "--device", "0000:01:00.0,bind", "--device", "0000:02:00.0,bind", "--device", "0000:03:00.0,bind")
	if !strings.Contains(out, "queues=4\n") {
		t.Errorf("four CPUs have no four queues: %s", out)
	}
	if sum := fmt.Sprintf("%x", md5.Sum([]byte(romText))); !strings.Contains(out, sum) {
		t.Errorf("the ROM's sum is not %s: %s", sum, out)
	}
	data, err := os.ReadFile(disk)
	if err != nil || string(data) != "written"+content[len("written"):] {
		t.Errorf("the file begins with %.20q, %v", data, err)
	}
	if !strings.Contains(out, "0x100000 bytes") || !strings.Contains(out, "0000:00:06.0") {
		t.Errorf("a 64-bit BAR of 1 MiB and an I/O BAR: %s", out)
	}
	if r := p.report(t); r.Devices["0000:02:00.0"] > 10 {
		t.Errorf("%d exits to a BAR that is mapped", r.Devices["0000:02:00.0"])
	}
	few, many := p.exits(t, 20, "iommufd", "IOMMU_IOAS_MAP"), p.exits(t, 420, "legacy", "VFIO_IOMMU_MAP_DMA")
	if many > few+40 {
		t.Errorf("20 reads cost %d exits to the device, 420 cost %d", few, many)
	}
}

// exits returns how many accesses to the disk were exits while the guest read it n times, with a backend whose call to
// map RAM is mapRAM.
func (p passed) exits(t *testing.T, n int, backend, mapRAM string) uint64 {
	t.Helper()
	p.guest(t, fmt.Sprintf(`until [ -b /dev/nvme0n1 ]; do sleep 0.1; done; dd if=/dev/nvme0n1 of=/dev/null bs=512 count=%d iflag=direct 2>/dev/null`, n),
		"--json", nestedReport, "--vfio", backend, "--device", "0000:01:00.0,bind")
	r := p.report(t)
	if len(r.Passthrough.Maps) != 1 || r.Passthrough.IOCTLs[mapRAM] != 1 || len(r.Passthrough.Devices) != 1 {
		t.Fatalf("report %+v", r.Passthrough)
	}
	d := r.Passthrough.Devices[0]
	if d.Name != "0000:01:00.0" || len(d.Attach) == 0 || d.Interrupts.Entered["MSI-X"] == 0 {
		t.Errorf("report %+v", d)
	}
	return r.Devices[d.Name]
}

// nestedReport is where a stile in the nested host writes what it did.
const nestedReport = "/run/report.json"

func (p passed) report(t *testing.T) guest.Report {
	t.Helper()
	text, err := p.Command(t.Context(), "cat", nestedReport).Output()
	if err != nil {
		t.Fatal(err)
	}
	var r guest.Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.Passthrough == nil {
		t.Fatalf("the report says nothing of devices: %s", text)
	}
	return r
}

// TestPassthroughUnsafe: hosts whose devices can't be isolated.
func TestPassthroughUnsafe(t *testing.T) {
	vmtest.RunInLab(t, "no-iommu", func(t *testing.T, host *vmtest.VM) {
		p := passed{host}
		p.refused(t, []string{"--device", labEdu + ",bind"}, "no IOMMU", "choose another with --topology")
		p.fails(t, []string{"mdev", "wrap", labEdu}, labEdu+" has no IOMMU group", "--topology")
		p.fails(t, []string{"bind", labEdu}, labEdu+" has no IOMMU group", "--topology")
		if d := p.driver(t, labEdu); d != "." {
			t.Errorf("something was changed: the driver of %s is %s", labEdu, d)
		}
	})
	vmtest.RunInLab(t, "no-remapping", func(t *testing.T, host *vmtest.VM) {
		for _, backend := range []string{"legacy", "iommufd"} {
			passed{host}.refused(t, []string{"--vfio", backend, "--device", labEdu + ",bind"}, "interrupt", "allow_unsafe_interrupts=1")
		}
		// As the message says.
		allow := host.Command(t.Context(), "sh", "-c", "echo 1 > /sys/module/iommufd/parameters/allow_unsafe_interrupts")
		if out, err := allow.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		passed{host}.guest(t, filepath.Join(tools, "hardware")+" edu 0x1234:0x11e8", "--vfio", "iommufd", "--device", labEdu+",bind")
	})
}

// TestPassthroughDebian: an older kernel, without iommufd.
func TestPassthroughDebian(t *testing.T) {
	start := time.Now()
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton", Kernel: "6.1"})}
	t.Logf("the nested host took %v", time.Since(start).Round(time.Second))
	out := p.guest(t, filepath.Join(tools, "hardware")+" edu 0x1234:0x11e8", "--device", labEdu+",bind")
	if !strings.Contains(out, "fine") {
		t.Error(out)
	}
	p.refused(t, []string{"--vfio", "iommufd", "--device", labEdu + ",bind"}, "iommufd")
	// A kernel without VFIO: its modules are gone, and so is where they could be loaded from.
	if out, err := p.Command(t.Context(), "sh", "-ec", "rmmod vfio_pci; mount -t tmpfs none /lib/modules").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.refused(t, []string{"--device", labEdu + ",bind"}, "the driver vfio-pci is not there", "CONFIG_VFIO_PCI")
}
