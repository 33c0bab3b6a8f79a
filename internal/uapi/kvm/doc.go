// Package kvm is the kernel's KVM ABI (linux/kvm.h, API version 12, x86-64): structs,
// ioctl numbers, capabilities, flags. No code. Every size, offset and number is
// compared with what a C program prints from the kernel's headers.
//
// Types come from github.com/bobuhiro11/gokvm/kvm where its layout is right; it
// imports the standard library only and costs the binary nothing but types. Of it are
// not used:
//
//   - IRQRoutingEntry: 24 bytes, the kernel's has 48, so a table of more than one
//     entry is read wrongly.
//   - Capability: 8 bits, where the kernel's numbers are an int; its names are used.
//   - RunData and its decoders: they allocate per exit.
//   - CPUID, MSRS, IRQRouting and their Bytes: they encode by reflection and NewCPUID
//     decodes an empty buffer.
//   - the ioctl wrappers: KVM_RUN is retried on EINTR, so a vCPU can't be kicked;
//     SetIdentityMapAddr passes 4 of 8 bytes; REGISTER_COALESCED_MMIO has the number of
//     IRQ_LINE_STATUS.
//   - its os.File for /dev/kvm, which the garbage collector may close.
//   - debugControl, whose setter writes the wrong byte; irqfd, ioeventfd, devices, MSI
//     and clock are not there.
package kvm
