package lab_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmtest"
)

// groupsScript prints one line for each IOMMU group, its functions separated by spaces.
const groupsScript = `cd /sys/kernel/iommu_groups && for g in *; do [ -d $g ] && echo $(ls $g/devices); done; true`

// bindScript gives the function $1 to vfio-pci and prints the driver that has it then.
const bindScript = `cd /sys/bus/pci/devices/$1 && echo vfio-pci > driver_override &&
if [ -e driver ]; then echo $1 > driver/unbind; fi && echo $1 > /sys/bus/pci/drivers_probe && basename $(readlink driver)`

// Each shipped topology has the groups that docs/lab.md says: the functions of a port are one, with a bridge
// among them where there is one; and vfio-pci takes each function where there is an IOMMU.
func TestTopologies(t *testing.T) {
	for _, topology := range lab.Topologies()[1:] {
		vmtest.RunInLab(t, topology.Name, func(t *testing.T, host *vmtest.VM) {
			checkGroups(t, host, &topology)
			if topology.IOMMU {
				checkBinding(t, host, &topology)
			}
		})
	}
}

func sh(t *testing.T, host *vmtest.VM, script string, args ...string) string {
	t.Helper()
	out, err := host.Command(t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...).Output()
	if err != nil {
		stderr := ""
		if exit, ok := err.(*vmtest.ExitError); ok {
			stderr = string(exit.Stderr)
		}
		t.Fatalf("%s: %v %s", script, err, stderr)
	}
	return strings.TrimSpace(string(out))
}

func checkGroups(t *testing.T, host *vmtest.VM, topology *lab.Topology) {
	got := make(map[string]bool)
	for line := range strings.Lines(sh(t, host, groupsScript)) {
		got[strings.TrimSpace(line)] = true
	}
	if !topology.IOMMU {
		if len(got) > 0 {
			t.Errorf("groups without an IOMMU: %q", slices.Collect(maps.Keys(got)))
		}
		return
	}
	units := make(map[int][]string)
	for _, f := range topology.Functions() {
		if topology.Ports[f.Unit].Bridge && len(units[f.Unit]) == 0 {
			var bus int
			fmt.Sscanf(f.BDF, "0000:%x", &bus)
			units[f.Unit] = []string{fmt.Sprintf("0000:%02x:00.0", bus-1)} // the bridge itself
		}
		units[f.Unit] = append(units[f.Unit], f.BDF)
	}
	for _, functions := range units {
		if want := strings.Join(functions, " "); !got[want] {
			t.Errorf("no group has the functions %s; groups: %q", want, slices.Sorted(maps.Keys(got)))
		}
	}
}

func checkBinding(t *testing.T, host *vmtest.VM, topology *lab.Topology) {
	for _, f := range topology.Functions() {
		if driver := sh(t, host, bindScript, f.BDF); driver != "vfio-pci" {
			t.Errorf("%s %s is bound to %s", f.Device.Kind, f.BDF, driver)
		}
	}
	groups := sh(t, host, "ls /dev/vfio")
	if !strings.Contains(groups, "vfio") {
		t.Errorf("/dev/vfio holds %s", groups)
	}
}

// A device that QEMU doesn't save has its BAR after the resume where the kernel believes it.
func TestUnsavedDeviceIsRestored(t *testing.T) {
	host := vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton"})
	script := `cd /sys/bus/pci/devices/0000:01:00.0 && echo $(od -An -tx4 -j16 -N4 config) $(head -n 1 resource)`
	var bar, start, end, flags uint64
	if _, err := fmt.Sscanf(sh(t, host, script), "%x 0x%x 0x%x 0x%x", &bar, &start, &end, &flags); err != nil {
		t.Fatal(err)
	}
	if bar&^0xf != start || start == 0 {
		t.Errorf("edu's BAR is %#x, the kernel has put it to %#x", bar, start)
	}
}

// A disk with a file of the host's is written through to it.
func TestDiskWithAFile(t *testing.T) {
	dir := t.TempDir()
	disk, topology := filepath.Join(dir, "disk"), filepath.Join(dir, "t.json")
	content := strings.Repeat("0123456789abcde\n", 1<<16)
	if err := os.WriteFile(disk, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"name": "disk", "iommu": true, "interrupt_remapping": true, "ports": [{"devices": [{"kind": "nvme", "file": %q}]}]}`, disk)
	if err := os.WriteFile(topology, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	host := vmtest.Lab(t, vmtest.LabConfig{Topology: topology})
	sh(t, host, `until [ -b /dev/nvme0n1 ]; do sleep 0.1; done; dd if=/dev/nvme0n1 bs=1M count=1 iflag=direct 2>/dev/null | cmp - $1 &&
		printf written | dd of=/dev/nvme0n1 conv=notrunc,fsync 2>/dev/null`, disk)
	data, err := os.ReadFile(disk)
	if err != nil || !strings.HasPrefix(string(data), "written"+content[len("written"):]) || len(data) != len(content) {
		t.Errorf("the file begins with %.20q, %v", data, err)
	}
}
