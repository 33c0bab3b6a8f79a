// Package pci is the guest's PCI: a root bus of 32 slots, config space by ECAM and by
// ports CF8/CFC, and functions whose header, BARs, COMMAND register, interrupt pin, MSI
// and MSI-X are emulated here and nowhere else. Emulated devices and devices passed
// through build on the same Function.
//
// # BARs are data
//
// A BAR is a list of parts: traps (a handler), host memory (a memory slot) and doorbells
// (an eventfd). When the guest switches decoding or moves a BAR, the function puts the
// parts onto the buses and asks the Mapper for the rest. A BAR is decoded only while the
// COMMAND bit is set, it lies within the bus's windows, nothing else is there, and the
// guest isn't sizing it.
//
// # Locks
//
// Function (config space) → MSIX, MSI, INTx → what irq and Mapper implementations hold.
// Config hooks run with the function's lock held, and must not call its locking methods;
// handlers of BAR parts run without it. Moving a BAR only detaches its regions (see
// bus.Registration), so config writes never wait for handlers.
//
// Sources: PCI Local Bus 3.0 (header, MSI, MSI-X), PCI Express Base 5.0 (ECAM, 7.2.2),
// linux/pci_regs.h.
package pci
