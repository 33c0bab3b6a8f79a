// Package vfio is the kernel's VFIO ABI (linux/vfio.h, API version 0): structs, ioctl
// numbers, capabilities, flags. No code. Every size, offset and number is compared with
// what a C program prints from the kernel's headers.
//
// Structs that end in an array are their fixed part here; the array's elements follow it.
// Each begins with ArgSize, the bytes that the caller provides, which the kernel raises
// where it has more to say. Part of them is of Linux 6.12; older kernels have less and
// ignore what they do not know.
package vfio
