package vfio

import (
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
)

// Backend is the kernel interface that a Space uses.
type Backend string

const (
	// Legacy is groups and a container of type1v2.
	Legacy Backend = "legacy"
	// IOMMUFD is character devices and iommufd (Linux 6.6).
	IOMMUFD Backend = "iommufd"
)

const (
	containerPath = "/dev/vfio/vfio"
	iommuPath     = "/dev/iommu"
)

// ParseBackend returns the backend with a name.
func ParseBackend(name string) (Backend, error) {
	switch b := Backend(name); b {
	case Legacy, IOMMUFD:
		return b, nil
	}
	return "", fmt.Errorf("VFIO backend %q: have %q and %q", name, Legacy, IOMMUFD)
}

// Probe returns the backend for devices that are to share a Space: iommufd where the kernel
// has it and all the devices' character devices may be opened, otherwise groups. The error
// says what either lacks.
func Probe(nodes ...Node) (Backend, error) { return probe(hostKernel{}, nodes) }

func probe(k kernel, nodes []Node) (Backend, error) {
	modern := probeIOMMUFD(k, nodes)
	if modern == nil {
		return IOMMUFD, nil
	}
	old := probeLegacy(k, nodes)
	if old == nil {
		return Legacy, nil
	}
	return "", fmt.Errorf("neither VFIO backend is usable: %w; %w", old, modern)
}

func probeIOMMUFD(k kernel, nodes []Node) error {
	for _, n := range nodes {
		if err := n.needCdev(); err != nil {
			return err
		}
		if err := k.access(n.Cdev); err != nil {
			return openCdev.fail(n.Name, err)
		}
	}
	f, err := k.open(iommuPath)
	if err != nil {
		return openIOMMU.fail(iommuPath, err)
	}
	return f.Close()
}

func probeLegacy(k kernel, nodes []Node) error {
	for _, n := range nodes {
		if err := n.needGroup(); err != nil {
			return err
		}
		if err := k.access(n.groupPath()); err != nil {
			return openGroup.fail(n.groupName(), err)
		}
	}
	f, err := openVersionedContainer(k, newCounter())
	if err != nil {
		return err
	}
	defer f.Close()
	if slices.ContainsFunc(nodes, func(n Node) bool { return n.NoIOMMU }) {
		return nil
	}
	return needType1(f)
}

// openVersionedContainer opens a container and checks that the kernel's API is ours.
func openVersionedContainer(k kernel, c *counter) (file, error) {
	f, err := openCounted(k, containerPath, c)
	if err != nil {
		return nil, openContainer.fail(containerPath, err)
	}
	version, err := f.control(callGetAPIVersion, 0)
	if err != nil {
		f.Close()
		return nil, callGetAPIVersion.fail(containerPath, err)
	}
	if version != vfio.APIVersion {
		f.Close()
		return nil, feature.Missing("VFIO API version 0", fmt.Sprintf("the kernel has version %d", version))
	}
	return f, nil
}

// needType1 returns an error unless the container can be of type1v2.
func needType1(f file) error {
	n, err := f.control(callCheckExtension, vfio.Type1v2IOMMU)
	if err != nil {
		return callCheckExtension.fail(containerPath, err)
	}
	if n <= 0 {
		return feature.Missing("VFIO_TYPE1v2_IOMMU", "load the module: modprobe vfio_iommu_type1")
	}
	return nil
}
