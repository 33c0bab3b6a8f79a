package disk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVector is how many buffers one system call takes. The list is on the stack.
const maxVector = 64

// vectorIO is preadv(2) or pwritev(2), by the number, for up to n bytes. It allocates nothing.
func vectorIO(number uintptr, fd int, c cursor, n, off int64) (int64, error) {
	var iov [maxVector]unix.Iovec
	count := 0
	for n > 0 && count < maxVector && len(c.bufs) > 0 {
		b := c.next(n)
		iov[count].Base = &b[0]
		iov[count].Len = uint64(len(b))
		count++
		n -= int64(len(b))
		c = c.after(int64(len(b)))
	}
	for {
		got, _, e := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(count), uintptr(off), 0, 0)
		if e == 0 {
			return int64(got), nil
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}

// aligned reports whether the next n bytes lie in pieces whose addresses are multiples of mem, and lengths of block.
func aligned(c cursor, n int64, mem, block int) bool {
	for n > 0 {
		b := c.next(n)
		if uintptr(unsafe.Pointer(&b[0]))%uintptr(mem) != 0 || len(b)%block != 0 {
			return false
		}
		n -= int64(len(b))
		c = c.after(int64(len(b)))
	}
	return true
}
