package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// More functions of the topology "all".
const (
	labSharedMemory = "0000:0a:00.0"
	labTestDev      = "0000:0b:00.0"
)

// barsScript moves BARs of an edu and of 256 MiB of memory while another CPU reads them, looks at a BAR
// of 256 bytes, which has a page to itself, and at one of ports, and has a NIC and a disk interrupt by one line.
const barsScript = `set -e
h=$1
for f in 4 5 6 7 8; do echo slot $f; cat /sys/bus/pci/devices/0000:00:0$f.0/resource; done
$h move 0x1234:0x11e8; $h memory 0x1af4:0x1110; $h move-memory 0x1af4:0x1110; $h sub-page 0x1af4:0x1110; $h test-device 0x1b36:0x0005
count() { set -- $(grep nvme0q0 /proc/interrupts); echo $(($2+$3)); }
until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
a=$(count)
` + linkScript + ` || true
b=$(count)
dd if=/dev/nvme0n1 of=/dev/null bs=4k count=20 iflag=direct 2>/dev/null
echo nic=$((b-a)) disk=$(($(count)-b)); grep nvme0q0 /proc/interrupts`

// TestPassthroughBARs has five devices in one guest without MSI: the first and the last share a line, as they are
// four slots apart. With groups, each move of a BAR is one of the map that lets the others reach it.
func TestPassthroughBARs(t *testing.T) {
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "all"})}
	flags := []string{"run", "-m", guestMemory, "-c", "2", "-a", "pci=nomsi", "--vfio", "legacy", "--json", nestedReport,
		"--device", labNIC + ",bind", "--device", labSharedMemory + ",bind", "--device", labTestDev + ",bind", "--device", labEdu + ",bind",
		"--device", labNVMe + ",bind"}
	_, plan, _ := p.nested(t, append(flags, "--dry-run")...)
	status, out, stderr := p.nested(t, append(flags, "--", "sh", "-c", barsScript, "sh", filepath.Join(tools, "hardware"))...)
	if status != 0 || strings.Count(out, "fine") != 5 || !strings.Contains(out, "0x10000000 bytes") {
		t.Fatalf("status %d: %s%s", status, out, stderr)
	}
	t.Log(out)
	wantPlaces(t, plan, out)
	var nic, disk int
	_, counts, _ := strings.Cut(out, "nic=")
	_, line, _ := strings.Cut(out, "IO-APIC")
	if _, err := fmt.Sscanf(counts, "%d disk=%d", &nic, &disk); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if nic == 0 || disk < 20 || !strings.Contains(out, "carrier=1") || !strings.Contains(line, "nvme0q0") || !strings.Contains(line, "eth0") {
		t.Errorf("%d interrupts of the NIC and %d of the disk on one line: %s", nic, disk, line)
	}
	r := p.report(t)
	if n := r.Devices[labSharedMemory]; n > 900 {
		t.Errorf("%d exits to a device whose BARs are all mapped", n)
	}
	calls := r.Passthrough.IOCTLs
	if maps, unmaps := calls["VFIO_IOMMU_MAP_DMA"], calls["VFIO_IOMMU_UNMAP_DMA"]; unmaps < 40 || maps < unmaps {
		t.Errorf("BARs were moved 40 times: %v", calls)
	}
	for _, d := range r.Passthrough.Devices {
		if d.Failed != 0 {
			t.Errorf("%s did not take %d accesses", d.Name, d.Failed)
		}
	}
}

// wantPlaces compares where a plan puts the BARs with what the guest's kernel found.
func wantPlaces(t *testing.T, plan, guest string) {
	t.Helper()
	places := regexp.MustCompile(`(?:BAR \d|ROM): .*, at (0x[0-9a-f]+)`).FindAllStringSubmatch(plan, -1)
	for _, m := range places {
		at, err := strconv.ParseUint(m[1], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(guest, fmt.Sprintf("\n0x%016x ", at)) {
			t.Errorf("the guest has nothing at %s: %s", m[1], guest)
		}
	}
	if len(places) != 10 {
		t.Errorf("%d BARs in the plan: %s", len(places), plan)
	}
}
