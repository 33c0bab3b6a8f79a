package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ioctl issues req with an integer argument and returns the result. The error is
// a bare errno: the caller names the operation. EINTR is not retried, because for
// KVM_RUN it means that the vCPU was kicked.
func (f *FD) Ioctl(req, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), req, arg)
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}

// IoctlPtr issues req with a pointer to arg. arg must hold no Go pointers that the
// kernel follows; addresses go in as integers whose memory the caller keeps alive.
func IoctlPtr[T any](f *FD, req uintptr, arg *T) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), req, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}

// IoctlBytes issues req with a pointer to the first byte of buf, for kernel structs
// that end in a flexible array.
func IoctlBytes(f *FD, req uintptr, buf []byte) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), req, uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}
