package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Vector is a list of pieces of memory for one write. Its zero value is empty; used again and again it keeps its room.
// It has one user at a time.
type Vector struct{ iov []unix.Iovec }

// Set makes the vector one of the pieces, which must lie outside the Go heap.
func (v *Vector) Set(pieces [][]byte) {
	v.iov = v.iov[:0]
	for _, p := range pieces {
		if len(p) > 0 {
			v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(len(p))})
		}
	}
}

// WriteTo writes the vector to a descriptor, with one writev(2). The error is a bare errno; EINTR is retried.
func (v *Vector) WriteTo(fd int) (int, error) {
	if len(v.iov) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(v.iov)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}
