package share

import (
	"golang.org/x/sys/unix"
)

// unprivilege takes the set-user-ID and set-group-ID bits from a file of the host that the guest is about to change, as the kernel does
// it for everybody but root. Such a file would go on to run as its owner on the host, with what the guest has written. fd may be
// an O_PATH descriptor.
func (s *Share) unprivilege(c *Call, fd int) error {
	if !s.root0 || s.readOnly {
		return nil
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return err
	}
	mode := uint32(st.Mode)
	bits := mode & unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		bits |= mode & unix.S_ISGID // without execution it stands for mandatory locks
	}
	if fileType(&st) != unix.S_IFREG || bits == 0 {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode&07777&^bits, 0)
}
