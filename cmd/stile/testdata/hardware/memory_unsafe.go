package main

import "unsafe"

// reg32 and reg64 are registers of a mapped BAR, to be used with sync/atomic: each access is one of the device.
func reg32(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
func reg64(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off])) }

// address returns where b is in this process.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// load8 and store8 access a byte of a mapped BAR, once.
//
//go:noinline
func load8(b []byte, off int) byte { return *(*byte)(unsafe.Pointer(&b[off])) }

//go:noinline
func store8(b []byte, off int, v byte) { *(*byte)(unsafe.Pointer(&b[off])) = v }
