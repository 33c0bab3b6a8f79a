package share

import (
	"cmp"

	"golang.org/x/sys/unix"
)

// What Tsetattr sets (include/net/9p/9p.h, P9_ATTR_*).
const (
	setMode     = 1 << 0
	setUID      = 1 << 1
	setGID      = 1 << 2
	setSize     = 1 << 3
	setAtime    = 1 << 4
	setMtime    = 1 << 5
	setAtimeNow = 1 << 7 // P9_ATTR_ATIME_SET: the time in the message counts, not the host's clock
	setMtimeNow = 1 << 8
)

// attributes are the fields of Tsetattr.
type attributes struct {
	valid, mode, uid, gid uint32
	size                  uint64
	atime, mtime          unix.Timespec
}

func (s *Session) setattr(c *Call, d *decoder) error {
	id := d.u32()
	a := attributes{valid: d.u32(), mode: d.u32(), uid: d.u32(), gid: d.u32(), size: d.u64()}
	a.atime = unix.Timespec{Sec: int64(d.u64()), Nsec: int64(d.u64())}
	a.mtime = unix.Timespec{Sec: int64(d.u64()), Nsec: int64(d.u64())}
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if f.node.hidden {
		return unix.EPERM
	}
	// An open file may have no name any more, so its own descriptor is preferred.
	fd := -1
	if file := f.file.Load(); file != nil {
		fd = file.fd
	} else {
		if fd, err = s.pin(c, f.node); err != nil {
			return err
		}
		defer s.unpin(f.node)
	}
	return s.apply(c, &a, f.node, fd)
}

// apply sets the attributes of the file behind fd, which may be an O_PATH descriptor. Size and
// owner come before times and mode, which they would change.
func (s *Session) apply(c *Call, a *attributes, n *node, fd int) error {
	if a.valid&setSize != 0 {
		if err := s.truncate(c, n, fd, a.size); err != nil {
			return err
		}
	}
	if a.valid&(setUID|setGID) != 0 {
		uid, gid := -1, -1
		if a.valid&setUID != 0 {
			uid = int(int32(a.uid))
		}
		if a.valid&setGID != 0 {
			gid = int(int32(a.gid))
		}
		if err := s.chown(c, fd, uid, gid); err != nil {
			return err
		}
	}
	if a.valid&setMode != 0 {
		if n.typ == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		if err := s.chmod(c, fd, a.mode); err != nil {
			return err
		}
	}
	if a.valid&(setAtime|setMtime) == 0 {
		return nil
	}
	times := []unix.Timespec{
		newTime(a.valid&setAtime != 0, a.valid&setAtimeNow != 0, a.atime),
		newTime(a.valid&setMtime != 0, a.valid&setMtimeNow != 0, a.mtime),
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0)
}

func (s *Session) chown(c *Call, fd, uid, gid int) error {
	if s.share.owners.root == nil {
		return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
	}
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	return s.share.owners.chown(&c.st, uid, gid)
}

func (s *Session) chmod(c *Call, fd int, mode uint32) error {
	if err := unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode&permissions, 0); err != nil {
		return err
	}
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	return s.share.owners.chmod(&c.st, mode)
}

func newTime(set, given bool, t unix.Timespec) unix.Timespec {
	switch {
	case !set:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case !given:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case t.Nsec < 0 || t.Nsec >= 1e9: // would be taken for one of the above
		t.Nsec = 0
	}
	return t
}

func (s *Session) truncate(c *Call, n *node, fd int, size uint64) error {
	if n.typ != unix.S_IFREG {
		return unix.EINVAL
	}
	if special, err := s.standsIn(c, n); special || err != nil {
		return cmp.Or(err, error(unix.EINVAL))
	}
	length, err := fileOffset(size)
	if err != nil {
		return err
	}
	if err := s.share.unprivilege(c, fd); err != nil {
		return err
	}
	// A file that is open for writing may have become one that can't be opened so.
	if err := unix.Ftruncate(fd, length); err == nil {
		return nil
	}
	w, err := openAt(s.share.proc.Int(), c.procName(fd), unix.O_WRONLY|hostFlags)
	if err != nil {
		return err
	}
	defer unix.Close(w)
	return unix.Ftruncate(w, length)
}
