package vmtest

import (
	"os"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/lab"
)

// kinds are names of devices and their identities on a host. In the lab they are the kinds of docs/lab.md.
var kinds = map[string]hostpci.ID{
	string(lab.EDU):       {Vendor: 0x1234, Device: 0x11e8},
	string(lab.NVMe):      {Vendor: 0x1b36, Device: 0x0010},
	string(lab.E1000E):    {Vendor: 0x8086, Device: 0x10d3},
	string(lab.VirtioNet): {Vendor: 0x1af4, Device: 0x1041},
	string(lab.VirtioBlk): {Vendor: 0x1af4, Device: 0x1042},
	string(lab.IVShmem):   {Vendor: 0x1af4, Device: 0x1110},
	string(lab.TestDev):   {Vendor: 0x1b36, Device: 0x0005},
}

// Device finds a PCI device to pass through, for Config.Devices. In the lab name is a kind of device, such as "edu" or
// "nvme", and the first one that is alone in its IOMMU group is taken. On a host name is a kind, an address, or a
// vendor and a device such as "8086:10d3"; the first one that is alone in its group is taken, and bound to VFIO's driver
// while the VM runs. A device that the host uses is never taken but by its address. A test for which there is no such device
// is skipped, or fails where STILE_TEST_REQUIRE lists "device". In a guest, which has the device already, the name is empty.
func Device(t testing.TB, name string) string {
	t.Helper()
	if InGuest() {
		return ""
	}
	testenv.Short(t)
	on := os.Getenv(envOn)
	if err := guest.CheckPlace(on); err != nil {
		t.Fatalf("vmtest: %s: %v", envOn, err)
	}
	place, _, err := guest.Choose(on)
	if err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
	var address string
	if place == guest.InLab {
		address, err = labDevice(name)
	} else {
		address, err = hostDevice(name)
	}
	if err != nil {
		t.Fatalf("vmtest: device %s: %v", name, err)
	}
	if address == "" {
		testenv.Missing(t, "device", "no "+name+" that could be passed through; stile devices shows what there is")
	}
	return address + ",bind"
}

func labDevice(name string) (string, error) {
	topology, err := lab.FindTopology(lab.AllTopology)
	if err != nil {
		return "", err
	}
	functions := topology.Functions()
	members := make(map[int]int)
	for _, f := range functions {
		members[f.Unit]++
	}
	for _, f := range functions {
		if string(f.Device.Kind) == name && members[f.Unit] == 1 {
			return f.BDF, nil
		}
	}
	return "", nil
}

func hostDevice(name string) (string, error) {
	host := hostpci.New("/")
	if address, err := host.Resolve(name); err == nil {
		return address.String(), nil
	}
	snapshot, err := host.Scan()
	if err != nil {
		return "", err
	}
	members := make(map[int]int)
	for _, f := range snapshot.Functions {
		if f.Group != nil {
			members[*f.Group]++
		}
	}
	for _, f := range snapshot.Functions {
		unused := f.Driver == "" || f.Status == hostpci.StatusVFIO
		if f.Group != nil && members[*f.Group] == 1 && unused && (f.ID == kinds[name] || f.ID.String() == name) {
			return f.Address.String(), nil
		}
	}
	return "", nil
}
