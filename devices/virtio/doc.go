// Package virtio is virtio 1.x over PCI: one transport and the devices on it. There is no
// legacy interface.
//
// A device is a small object behind the Device interface. The transport owns everything
// the standard says about PCI: capabilities, feature negotiation, status, queue setup,
// doorbells and interrupts. Each queue has a goroutine that waits for its doorbell and
// calls the device's Serve, so devices of one queue need no locks of their own.
//
// BAR 0 (64-bit memory, 32 KiB) holds all there is: one BAR costs a booting guest the
// fewest accesses.
//
//	0000  common configuration   1000  ISR status   2000  device configuration
//	3000  doorbells, 4 bytes per queue             4000  MSI-X table   5000  pending bits
//
// Source: Virtual I/O Device (VIRTIO) Version 1.3, section numbers in the code.
package virtio
