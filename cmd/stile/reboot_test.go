package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// TestPassthroughReboot reboots a guest with two devices. At each boot its init finds an edu that works, and
// on a disk what the boot before has written. RAM is mapped for DMA once.
func TestPassthroughReboot(t *testing.T) {
	boots, backends := 3, []string{"iommufd"}
	if testenv.Soak() {
		boots, backends = 11, []string{"iommufd", "legacy"}
	}
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "all"})}
	initramfs := filepath.Join(t.TempDir(), "init.cpio")
	if err := makeInitramfs(initramfs, "hardware"); err != nil {
		t.Fatal(err)
	}
	for i, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			first, last := i*boots+1, (i+1)*boots
			status, stdout, stderr := p.nested(t, "run", "-m", guestMemory, "-i", initramfs, "--on-reboot", "reset", "--json", nestedReport,
				"-a", "quiet", "-a", "EDU=0x1234:0x11e8", "-a", fmt.Sprintf("BOOTS=%d", last), "--vfio", backend,
				"--device", labEdu+",bind", "--device", labNVMe+",bind")
			for boot := first; boot <= last; boot++ {
				if !strings.Contains(stdout, fmt.Sprintf("boot %d is fine", boot)) {
					t.Fatalf("boot %d is not fine, status %d: %s%s", boot, status, stdout, stderr)
				}
			}
			checkReboots(t, p.report(t), boots-1)
		})
	}
}

func checkReboots(t *testing.T, r guest.Report, want int) {
	t.Helper()
	if r.Status != 0 || r.Reboots != want {
		t.Errorf("status %d after %d reboots", r.Status, r.Reboots)
	}
	t.Logf("%d resets took %.0f ms", r.Reboots, r.ResetMS)
	calls := r.Passthrough.IOCTLs
	if calls["IOMMU_IOAS_MAP"]+calls["VFIO_IOMMU_MAP_DMA"] == 0 || calls["IOMMU_IOAS_MAP"] > 1 || calls["IOMMU_IOAS_UNMAP"] > 0 {
		t.Errorf("calls for DMA: %v", calls)
	}
	// With groups the devices' BARs are mapped for each other, at each boot.
	if maps, unmaps := calls["VFIO_IOMMU_MAP_DMA"], calls["VFIO_IOMMU_UNMAP_DMA"]; maps > 0 && maps-unmaps > 4 {
		t.Errorf("calls for DMA: %v", calls)
	}
	for _, d := range r.Passthrough.Devices {
		if d.IOCTLs["VFIO_DEVICE_RESET"] != uint64(want) {
			t.Errorf("%s: %v", d.Name, d.IOCTLs)
		}
	}
}
