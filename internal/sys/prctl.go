package sys

import "golang.org/x/sys/unix"

// ArchPrctl issues arch_prctl(2). The error is a bare errno.
func ArchPrctl(code, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_ARCH_PRCTL, code, arg, 0); errno != 0 {
		return errno
	}
	return nil
}
