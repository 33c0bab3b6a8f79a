package share

import (
	"golang.org/x/sys/unix"
)

// mknod makes a regular file, FIFO, socket or device node. Of devices, and of what the host's file system has no nodes for, the
// host gets a regular file (see [standIns]).
func (s *Session) mknod(c *Call, d *decoder) error {
	id := d.u32()
	name := d.str()
	mode, major, minor := d.u32(), d.u32(), d.u32()
	gid := d.u32()
	special, err := newStandIn(mode, major, minor)
	if err != nil {
		return err
	}
	switch mode & unix.S_IFMT {
	case 0, unix.S_IFREG:
		return s.make(c, d, id, name, mode, gid, s.makeRegular)
	case unix.S_IFIFO, unix.S_IFSOCK:
		return s.make(c, d, id, name, mode, gid, func(dirfd int, name string) error {
			err := s.share.makeNode(dirfd, name, mode&unix.S_IFMT|0o600, 0)
			if lacksNodes(err) {
				return s.makeStandIn(dirfd, name, special)
			}
			return err
		})
	case unix.S_IFCHR, unix.S_IFBLK:
		return s.make(c, d, id, name, mode, gid, func(dirfd int, name string) error {
			return s.makeStandIn(dirfd, name, special)
		})
	}
	return unix.EINVAL
}

// lacksNodes reports whether err is how a file system says that it has no FIFOs and sockets: FAT and exFAT with EPERM, others with
// EOPNOTSUPP or ENOSYS. ENXIO is from the 9P server of QEMU before 10 (from its fix of CVE-2023-2861 to QEMU's issue 2337): it makes
// the node, refuses to open it with O_PATH to set the mode, and removes it.
func lacksNodes(err error) bool {
	switch err {
	case unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.ENXIO:
		return true
	}
	return false
}

func (s *Session) makeRegular(dirfd int, name string) error {
	var st unix.Statx_t
	if err := makeEmpty(dirfd, name, &st); err != nil {
		return err
	}
	s.share.owners.standIns.forget(identify(&st))
	return nil
}

// makeStandIn makes a regular file that stands for n.
func (s *Session) makeStandIn(dirfd int, name string, n standIn) error {
	var st unix.Statx_t
	if err := makeEmpty(dirfd, name, &st); err != nil {
		return err
	}
	err := s.share.owners.standIns.add(&st, n)
	if err != nil {
		_ = unix.Unlinkat(dirfd, name, 0)
	}
	return err
}

// makeEmpty makes an empty regular file and leaves its attributes in st.
func makeEmpty(dirfd int, name string, st *unix.Statx_t) error {
	fd, err := unix.Openat(dirfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|hostFlags, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return statFD(fd, st)
}
