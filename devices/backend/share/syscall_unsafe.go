package share

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls take names as NUL-terminated bytes and so, unlike those of x/sys, allocate
// nothing. Paths must not be empty and must end in NUL.

var emptyPath = [1]byte{}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func statAt(dirfd int, path []byte, st *unix.Statx_t) error {
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	return statx(dirfd, &path[0], flags, st)
}

func statFD(fd int, st *unix.Statx_t) error {
	return statx(fd, &emptyPath[0], unix.AT_EMPTY_PATH, st)
}

func statx(dirfd int, path *byte, flags int, st *unix.Statx_t) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(path)),
			uintptr(flags), statMask, uintptr(unsafe.Pointer(st)), 0)
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

func openAt(dirfd int, path []byte, flags int) (int, error) {
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])),
			uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		if e == 0 {
			return int(fd), nil
		}
		if e != unix.EINTR {
			return -1, e
		}
	}
}

func openAt2(dirfd int, path []byte, how *unix.OpenHow) (int, error) {
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT2, uintptr(dirfd), uintptr(unsafe.Pointer(&path[0])),
			uintptr(unsafe.Pointer(how)), unix.SizeofOpenHow, 0, 0)
		if e == 0 {
			return int(fd), nil
		}
		if e != unix.EINTR {
			return -1, e
		}
	}
}

func readlinkFD(fd int, buf []byte) (int, error) {
	n, _, e := unix.Syscall6(unix.SYS_READLINKAT, uintptr(fd), uintptr(unsafe.Pointer(&emptyPath[0])),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// vectorIO is preadv(2), pwritev(2), or preadv2(2) with its flags, by the number.
func vectorIO(number uintptr, fd int, iov []unix.Iovec, off int64, flags uintptr) (int, error) {
	if len(iov) == 0 {
		return 0, nil
	}
	for {
		n, _, e := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])),
			uintptr(len(iov)), uintptr(off), 0, flags)
		if e == 0 {
			return int(n), nil
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}
