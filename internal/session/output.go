package session

import (
	"io"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// sameOutput reports whether what is written to a and b goes to one place, in the order in which it is written.
func sameOutput(a, b io.Writer) bool {
	if sameWriter(a, b) {
		return true
	}
	fileA, okA := a.(*os.File)
	fileB, okB := b.(*os.File)
	return okA && okB && sameFile(fileA, fileB)
}

// sameWriter compares the writers, of which those that can't be compared are not the same.
func sameWriter(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// sameFile reports whether two files are one: the same pipe, terminal, socket or device, or a file on disk that is open once or
// that both append to. A file on disk that was opened twice has two offsets: each stream would overwrite the other.
func sameFile(a, b *os.File) bool {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	if errA != nil || errB != nil || !os.SameFile(infoA, infoB) {
		return false
	}
	if !infoA.Mode().IsRegular() {
		return true
	}
	same := false
	onFDs(a, b, func(fdA, fdB int) { same = sameDescription(fdA, fdB) || appends(fdA) && appends(fdB) })
	return same
}

// onFDs calls f with both files' descriptors, unless one is closed.
func onFDs(a, b *os.File, f func(fdA, fdB int)) {
	rawA, errA := a.SyscallConn()
	rawB, errB := b.SyscallConn()
	if errA != nil || errB != nil {
		return
	}
	// An error says that a file was closed: then f is not called.
	_ = rawA.Control(func(fdA uintptr) {
		_ = rawB.Control(func(fdB uintptr) { f(int(fdA), int(fdB)) })
	})
}

// sameDescription reports whether two descriptors of a regular file are one open file description, by a flag that the kernel
// keeps in the description and that means nothing to a regular file. kcmp(2) would say so too, and is forbidden in many containers.
func sameDescription(a, b int) bool {
	before, err := unix.FcntlInt(uintptr(a), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if _, err := unix.FcntlInt(uintptr(a), unix.F_SETFL, before^unix.O_NONBLOCK); err != nil {
		return false
	}
	after, err := unix.FcntlInt(uintptr(b), unix.F_GETFL, 0)
	_, _ = unix.FcntlInt(uintptr(a), unix.F_SETFL, before) // as it could be set before
	return err == nil && before&unix.O_NONBLOCK != after&unix.O_NONBLOCK && flagsAlike(before, after)
}

// flagsAlike compares all flags but the one that was changed.
func flagsAlike(a, b int) bool { return (a^b)&^unix.O_NONBLOCK == 0 }

func appends(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_APPEND != 0
}
