package hostpci_test

import (
	"testing"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

// TestDeniedByTheKernel: the driver refuses in silence, and only because of what the function is.
func TestDeniedByTheKernel(t *testing.T) {
	const accelerator = "0000:0d:00.0"
	for driver, remedy := range map[string]string{
		"vfio-pci":          "modprobe vfio-pci disable_denylist=1",
		hostpci.DonorDriver: "/sys/module/vfio_mdev_pci/parameters/disable_denylist",
	} {
		tree, k, h := bindHost(t)
		tree.Driver(driver)
		tree.Add(hosttest.Function{Address: accelerator, ID: "8086:37C8", Group: 30})
		k.Broken = []string{driver}
		_, err := h.Bind(bdfs(t, accelerator), hostpci.BindOptions{Driver: driver})
		wantError(t, err, "the driver "+driver+" refuses it", "8086:37c8", remedy)
		_, err = h.Bind(bdfs(t, disk), hostpci.BindOptions{Driver: driver})
		wantError(t, err, "did not take it")
	}
}
