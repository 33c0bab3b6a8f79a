// Package passthrough shows a test with a PCI device.
package passthrough

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// TestEDU looks for QEMU's teaching device among the guest's PCI functions, and reads its
// identification register.
func TestEDU(t *testing.T) {
	vmtest.Run(t, vmtest.Config{Devices: []string{vmtest.Device(t, "edu")}}, func(t *testing.T) {
		functions, err := filepath.Glob("/sys/bus/pci/devices/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range functions {
			vendor, _ := os.ReadFile(filepath.Join(f, "vendor"))
			device, _ := os.ReadFile(filepath.Join(f, "device"))
			if strings.TrimSpace(string(vendor)) != "0x1234" || strings.TrimSpace(string(device)) != "0x11e8" {
				continue
			}
			t.Logf("edu is %s", filepath.Base(f))
			if _, err := os.Stat(filepath.Join(f, "resource0")); err != nil {
				t.Error(err)
			}
			return
		}
		t.Errorf("no edu among %v", functions)
	})
}
