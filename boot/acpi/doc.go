// Package acpi builds the ACPI tables of the guest: RSDP, XSDT, FADT, FACS, MADT, MCFG
// and DSDT (ACPI specification 6.4; PCI firmware specification 3.3 for MCFG and _OSC).
//
// The machine is not hardware-reduced. PM1 events carry the power button, and the legacy
// interrupt controllers, which KVM has in the kernel anyway, stay usable; with the
// hardware-reduced flag Linux would take none of these, and would need a GPIO or generic
// event device for the button instead.
//
// There is no SMI command port: the guest finds ACPI mode already on. The boot flags
// deny VGA and a keyboard controller, so that Linux does not probe for them; the i8042's
// reset line works all the same for guests that pulse it unasked.
package acpi
