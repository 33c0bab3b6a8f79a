package vfio

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/uapi/golden"
)

const (
	goldenFile   = "testdata/facts.golden"
	goldenFile66 = "testdata/facts66.golden"
)

func TestGoldenFileIsWhatTheHeadersSay(t *testing.T) {
	golden.Program(t, "testdata/facts.c", goldenFile)
}

// TestGoldenFile66IsWhatTheHeadersSay needs headers of Linux 6.6 or later; C_INCLUDE_PATH
// can lead to some.
func TestGoldenFile66IsWhatTheHeadersSay(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		testenv.Missing(t, "cc", err.Error())
	}
	cmd := exec.Command(cc, "-E", "-x", "c", "-o", "/dev/null", "-")
	cmd.Stdin = strings.NewReader("#include <linux/vfio.h>\n#ifndef VFIO_DEVICE_BIND_IOMMUFD\n#error old\n#endif\n")
	if err := cmd.Run(); err != nil {
		testenv.Missing(t, "headers", "linux/vfio.h is older than Linux 6.6")
	}
	golden.Program(t, "testdata/facts66.c", goldenFile66)
}

type layout struct {
	cname string
	value any
	names string
}

var layouts = []layout{
	{"vfio_group_status", GroupStatus{}, "argsz flags"},
	{"vfio_info_cap_header", CapHeader{}, "id version next"},
	{"vfio_device_info", DeviceInfo{}, "argsz flags num_regions num_irqs cap_offset pad"},
	{"vfio_region_info", RegionInfo{}, "argsz flags index cap_offset size offset"},
	{"vfio_region_info_cap_sparse_mmap", SparseMmapCap{}, "header nr_areas reserved"},
	{"vfio_region_sparse_mmap_area", SparseMmapArea{}, "offset size"},
	{"vfio_region_info_cap_type", TypeCap{}, "header type subtype"},
	{"vfio_irq_info", IRQInfo{}, "argsz flags index count"},
	{"vfio_irq_set", IRQSet{}, "argsz flags index start count"},
	{"vfio_pci_hot_reset_info", HotResetInfo{}, "argsz flags count"},
	{"vfio_pci_dependent_device", DependentDevice{}, "group_id segment bus devfn"},
	{"vfio_pci_hot_reset", HotReset{}, "argsz flags count"},
	{"vfio_device_ioeventfd", IOEventFDArg{}, "argsz flags offset data fd reserved"},
	{"vfio_device_feature", DeviceFeature{}, "argsz flags"},
	{"vfio_iommu_type1_info", IOMMUInfo{}, "argsz flags iova_pgsizes cap_offset pad"},
	{"vfio_iommu_type1_info_cap_iova_range", IOVARangeCap{}, "header nr_iovas reserved"},
	{"vfio_iova_range", IOVARange{}, "start end"},
	{"vfio_iommu_type1_info_dma_avail", DMAAvailCap{}, "header avail"},
	{"vfio_iommu_type1_dma_map", DMAMap{}, "argsz flags vaddr iova size"},
	{"vfio_iommu_type1_dma_unmap", DMAUnmap{}, "argsz flags iova size"},
	{"vfio_device_bind_iommufd", DeviceBind{}, "argsz flags iommufd out_devid"},
	{"vfio_device_attach_iommufd_pt", DeviceAttach{}, "argsz flags pt_id"},
	{"vfio_device_detach_iommufd_pt", DeviceDetach{}, "argsz flags"},
}

func TestABI(t *testing.T) {
	facts := golden.Facts{}
	for _, l := range layouts {
		if err := facts.Struct(l.cname, l.value, l.names); err != nil {
			t.Fatal(err)
		}
	}
	// Arrays follow the fixed part that ends before them.
	facts["vfio_region_info_cap_sparse_mmap.areas"] = facts["vfio_region_info_cap_sparse_mmap"]
	facts["vfio_irq_set.data"] = facts["vfio_irq_set"]
	facts["vfio_pci_hot_reset_info.devices"] = facts["vfio_pci_hot_reset_info"]
	facts["vfio_pci_hot_reset.group_fds"] = facts["vfio_pci_hot_reset"]
	facts["vfio_device_feature.data"] = facts["vfio_device_feature"]
	facts["vfio_iommu_type1_info_cap_iova_range.iova_ranges"] = facts["vfio_iommu_type1_info_cap_iova_range"]
	for name, value := range numbers {
		facts[name] = value
	}

	facts66 := golden.Facts{"vfio_pci_dependent_device.devid": facts["vfio_pci_dependent_device.group_id"]}
	for name, value := range facts {
		switch {
		case strings.Contains(name, "iommufd"), name == "vfio_device_info", name == "vfio_device_info.pad",
			name == "vfio_iommu_type1_info.pad", name == "vfio_device_ioeventfd.reserved":
			facts66[name] = value
			delete(facts, name)
		}
	}
	for name, value := range numbers66 {
		facts66[name] = value
	}
	golden.Check(t, goldenFile, facts)
	golden.Check(t, goldenFile66, facts66)
}
