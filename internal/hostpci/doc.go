// Package hostpci shows the host's PCI functions, IOMMU groups, drivers and mediated
// devices as sysfs has them, decides which groups are viable for VFIO and says why not,
// and changes driver bindings so that they can be given back.
//
// [Host.Scan] takes a [Snapshot], a plain value that does not change. What is costly or
// needs root is read on demand: [Host.Detail] for one function, [Host.Explain] for a
// group's isolation. Nothing is inferred that sysfs has a link for.
//
// Bindings are changed by [Host.Bind] and given back by [Host.Unbind]. Each function is
// written to a journal before the first change to it, so that whatever a killed process
// left behind is found by [Host.Stale] and undone by [Host.Recover].
//
// The root of the file system can be another than "/": a copied or a made-up tree.
//
// Sources: Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups,
// sysfs-devices-vfio-dev, Documentation/driver-api/vfio.rst and
// vfio-mediated-device.rst, and the DMA ownership rules in drivers/iommu/iommu.c of
// Linux 5.19 and later.
package hostpci
