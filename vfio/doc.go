// Package vfio drives PCI devices and mediated devices from user space through the kernel's
// VFIO (Documentation/driver-api/vfio.rst, linux/vfio.h), by groups and a container or by
// character devices and iommufd.
//
// A Space is the DMA address space of a VM: devices are attached to it and memory is mapped
// into it. A Device has regions (BARs, ROM, config space) and interrupts. Nothing here knows
// of guests; errors say cause and remedy.
//
// # Order
//
// Going up: Open, Attach each device, look at Limits, place the guest's RAM, Map it. Groups
// and devices become known to KVM (Options.KVM) before a device opens, because the kernel
// copies the VM's pointer then.
//
// Going down, after the caller has taken the devices' eventfds out of KVM and their BARs out
// of the guest's memory: Device.Close (interrupts off, BAR mappings unmapped, device closed;
// with a group's last device RAM is unmapped where it was the last group, the group leaves
// KVM, then the container), then Space.Close. Mapped memory must outlive its map.
//
// A group is opened once and shared by its devices. What is mapped is remembered, so that
// maps exist while no device is attached, and come into effect with the next one: with
// type1 the kernel drops all maps with the last group.
package vfio
