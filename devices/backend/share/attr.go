package share

import (
	"golang.org/x/sys/unix"
)

// statsBasic is P9_STATS_BASIC: all attributes but birth time, generation and data version.
const statsBasic = 0x7ff

func (s *Session) getattr(c *Call, d *decoder) error {
	id := d.u32()
	mask := d.u64() // of wanted attributes: all of them cost one system call
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if !s.takeWalked(c, f, mask) {
		if err := s.stat(c, f); err != nil {
			return err
		}
	}
	st := &c.st
	version := s.share.qid(st) // of the state that the host tells, as in other answers
	if fileType(st) == unix.S_IFLNK {
		st.Size = s.linkSize(c, f.node, st.Size)
	}
	s.share.owners.show(st)
	c.w.u64(statsBasic)
	c.w.qid(version)
	c.w.u32(uint32(st.Mode))
	c.w.u32(st.Uid)
	c.w.u32(st.Gid)
	c.w.u64(uint64(st.Nlink))
	c.w.u64(encodeDev(st.Rdev_major, st.Rdev_minor))
	c.w.u64(st.Size)
	c.w.u64(uint64(st.Blksize))
	c.w.u64(st.Blocks)
	for _, t := range [...]unix.StatxTimestamp{st.Atime, st.Mtime, st.Ctime, {}} {
		c.w.u64(uint64(t.Sec))
		c.w.u64(uint64(t.Nsec))
	}
	c.w.u64(0)
	c.w.u64(0)
	return nil
}

// linkSize returns the length of a symbolic link's target, and told, the size that the host tells, where the target can't be
// read. They differ on file systems that don't know the length, and say 0, as many of FUSE do. Linux from 7.2 on cuts what it
// keeps of a target to the size. Where the size is the length, the link is not read: that sets its time of last access.
func (s *Session) linkSize(c *Call, n *node, told uint64) uint64 {
	st := c.st // pin uses the buffer
	defer func() { c.st = st }()
	fd, err := s.pin(c, n)
	if err != nil {
		return told
	}
	defer s.unpin(n)
	if told != 0 && knowsLengths(fd) {
		return told
	}
	length, err := readlinkFD(fd, c.path[:])
	if err != nil || length == len(c.path) {
		return told
	}
	return uint64(length)
}

// knowsLengths reports whether fd is on a file system that has the length of each link's target for its size. Others may pass on what
// one of FUSE says, as overlayfs and the network's do.
func knowsLengths(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return true
	}
	return false
}

// encodeDev is the kernel's new_encode_dev (include/linux/kdev_t.h), which v9fs decodes.
func encodeDev(major, minor uint32) uint64 {
	return uint64(minor&0xff | major<<8 | minor&^0xff<<12)
}

// stat puts f's attributes into c.st: those of the open file, if there is one, which may have
// no name any more.
func (s *Session) stat(c *Call, f *fid) error {
	if file := f.file.Load(); file != nil && file.fd >= 0 {
		return statFD(file.fd, &c.st)
	}
	return s.statNode(c, f.node)
}

func (s *Session) readlink(c *Call, d *decoder) error {
	id := d.u32()
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if f.node.typ != unix.S_IFLNK {
		return unix.EINVAL
	}
	fd, err := s.pin(c, f.node)
	if err != nil {
		return err
	}
	defer s.unpin(f.node)
	n, err := readlinkFD(fd, c.path[:])
	if err != nil {
		return err
	}
	if n == len(c.path) {
		return unix.ENAMETOOLONG
	}
	c.w.str(c.path[:n])
	return nil
}

// statfs tells the numbers of the host's file system and the type of 9P's, so that no program
// in the guest expects what only the host's file system can do.
func (s *Session) statfs(c *Call, d *decoder) error {
	id := d.u32()
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	fd, err := s.pin(c, f.node)
	if err != nil {
		return err
	}
	defer s.unpin(f.node)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	c.w.u32(unix.V9FS_MAGIC)
	c.w.u32(uint32(st.Bsize))
	c.w.u64(st.Blocks)
	c.w.u64(st.Bfree)
	c.w.u64(st.Bavail)
	c.w.u64(st.Files)
	c.w.u64(st.Ffree)
	c.w.u64(uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32)
	c.w.u32(uint32(st.Namelen))
	return nil
}
