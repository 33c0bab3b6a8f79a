// Package passthrough puts a device that VFIO opened onto the guest's PCI bus, as one more
// pci.Function.
//
// # Config space
//
// The header, BARs, COMMAND, MSI and MSI-X are emulated by package pci. PM, PCIe, AF, VPD and
// vendor-specific capabilities, and most extended ones, are passed: reads and writes go to the
// device at the width the guest chose. The list is rebuilt without what makes no sense in a
// guest (SR-IOV, ATS, PRI, PASID, ARI, resizable BARs) or has no known length. What lies in no
// capability is passed too, because some drivers keep registers there; the kernel has its own
// filter below.
//
// # BARs
//
// What the kernel allows to map becomes memory slots, without the pages of the MSI-X table and
// the PBA, which are trapped like all that cannot be mapped. The process never touches a
// mapping: an access raises SIGBUS while the device does not decode. A write that ends
// decoding (COMMAND, a power state, a function level reset) is passed on only after the slots
// are gone, because KVM_RUN fails on a slot whose pages the kernel took away.
//
// # Interrupts
//
// A vector's eventfd is what VFIO signals and what KVM waits for, so no interrupt passes
// through this process. INTx, MSI and MSI-X exclude each other; while the guest enables neither
// MSI nor MSI-X the device has INTx, with a second eventfd by which the guest's end of
// interrupt unmasks it.
//
// Sources: linux/vfio.h, linux/pci_regs.h, PCI Local Bus 3.0, PCI Express Base 5.0.
package passthrough
