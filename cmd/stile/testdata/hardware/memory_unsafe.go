package main

import "unsafe"

// reg32 and reg64 are registers of a mapped BAR, to be used with sync/atomic: each access is one of the device.
func reg32(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
func reg64(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off])) }

// address returns where b is in this process.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
