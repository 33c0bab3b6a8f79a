// Package legacy is what stays of the PC: a serial port, the clock, the reset line of the
// keyboard controller, ACPI power management, and two ports by which a guest reports
// its end. Each is a small object that is a bus.Handler; New puts them all onto a bus.
//
// Nothing here ends the process: power states are passed to a Notify function.
package legacy
