// Package mdev makes, shows and removes mediated devices, those of any driver, and wraps
// whole PCI functions as such: see docs/mdev-pci.md.
//
// What there is comes from sysfs alone ([Host.Parents], [Host.Devices]); the IOMMU group
// of a device is where its link leads, and is never inferred from its parent's.
// [Host.Wrap] binds a function to the kernel module in the folder kmod, which [Module]
// builds and loads, and makes one device of it; [Host.Unwrap] gives the function back.
// Both are noted before their first change, so that [Host.Recover] undoes what a
// killed process left.
//
// Sources: Documentation/driver-api/vfio-mediated-device.rst,
// Documentation/ABI/testing/sysfs-bus-vfio-mdev, and drivers/vfio/mdev of Linux 6.1 to
// 6.12 for what each errno means.
package mdev
