package vfio

import (
	"unsafe"

	"github.com/stile-vmm/stile/internal/uapi/iommufd"
)

const (
	iovaRangeSize = int(unsafe.Sizeof(iommufd.IOVARange{}))
	// allowedAt is where IOVARangesArg has the address of the ranges.
	allowedAt = int(unsafe.Offsetof(iommufd.IOVARangesArg{}.Allowed))
)

// bytesOf returns p's memory. T is a struct of the kernel's ABI, without Go pointers.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// sizeOf returns the size of T in bytes.
func sizeOf[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}
