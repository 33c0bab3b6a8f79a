package share

import (
	"golang.org/x/sys/unix"
)

// These requests change the folder. They reach here only in writable shares.

// permissions are the mode bits that a guest may set. Set-user-ID and set-group-ID are not
// among them: a guest must not leave behind programs that run as stile's user.
const permissions = 0o1777

// inDir is the directory in which a request makes or removes a name.
type inDir struct {
	fid *fid
	fd  int
}

// enter returns the directory that id stands for. leave must follow.
func (s *Session) enter(c *Call, id uint32) (inDir, error) {
	f, err := s.get(id)
	if err != nil {
		return inDir{}, err
	}
	if !f.node.isDir() || f.xattr.Load() != nil {
		s.put(f)
		return inDir{}, unix.ENOTDIR
	}
	if f.node.hidden {
		s.put(f)
		return inDir{}, unix.EPERM
	}
	fd, err := s.pin(c, f.node)
	if err != nil {
		s.put(f)
		return inDir{}, err
	}
	return inDir{fid: f, fd: fd}, nil
}

func (s *Session) leave(d inDir) {
	s.unpin(d.fid.node)
	s.put(d.fid)
}

// finish gives a file that was just made its owner and mode and tells the guest its QID.
func (s *Session) finish(c *Call, dir inDir, name string, mode, gid uint32) error {
	fd, err := openAt(dir.fd, c.terminated(name), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	if s.share.privileged {
		if err := unix.Fchownat(fd, "", int(int32(dir.fid.uid)), int(int32(gid)), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if fileType(&c.st) != unix.S_IFLNK {
		if err := unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode&permissions, 0); err != nil {
			return err
		}
	}
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	c.w.qid(s.share.qid(&c.st))
	return nil
}

// create makes a regular file and opens it; the directory's fid becomes the file's. A file that
// is there already is opened as Tlopen does it, with its checks.
func (s *Session) create(c *Call, d *decoder) error {
	id := d.u32()
	nameBytes := d.str()
	flags, mode, gid := int(d.u32()), d.u32(), d.u32()
	if d.bad {
		return unix.EINVAL
	}
	if err := checkName(nameBytes); err != nil {
		return err
	}
	dir, err := s.enter(c, id)
	if err != nil {
		return err
	}
	defer s.leave(dir)
	if dir.fid.file.Load() != nil {
		return unix.EINVAL
	}
	name := string(nameBytes)
	made, err := makeFile(dir.fd, name)
	if err != nil && (err != unix.EEXIST || flags&unix.O_EXCL != 0) {
		return err
	}
	if made {
		if err := s.finish(c, dir, name, mode, gid); err != nil {
			return err
		}
		c.reset()
	}
	return s.openCreated(c, id, dir, nameBytes, flags)
}

func makeFile(dirfd int, name string) (bool, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|hostFlags, 0o600)
	if err != nil {
		return false, err
	}
	return true, unix.Close(fd)
}

func (s *Session) openCreated(c *Call, id uint32, dir inDir, name []byte, flags int) error {
	n, err := s.step(c, dir.fid.node, name)
	if err != nil {
		return err
	}
	file, err := s.openNode(c, n, flags)
	if err != nil {
		s.release(n)
		return err
	}
	f := &fid{node: n, uid: dir.fid.uid}
	f.file.Store(file)
	if err := s.install(id, f, dir.fid); err != nil {
		return err
	}
	c.w.qid(s.share.qid(&c.st))
	c.w.u32(0)
	return nil
}

func (s *Session) mkdir(c *Call, d *decoder) error {
	id := d.u32()
	name := d.str()
	mode, gid := d.u32(), d.u32()
	return s.make(c, d, id, name, mode, gid, func(dirfd int, name string) error {
		return unix.Mkdirat(dirfd, name, 0o700)
	})
}

func (s *Session) symlink(c *Call, d *decoder) error {
	id := d.u32()
	name, target := d.str(), string(d.str())
	gid := d.u32()
	return s.make(c, d, id, name, 0, gid, func(dirfd int, name string) error {
		return unix.Symlinkat(target, dirfd, name)
	})
}

// mknod makes a regular file, FIFO or socket. Devices are refused: they would be the host's.
func (s *Session) mknod(c *Call, d *decoder) error {
	id := d.u32()
	name := d.str()
	mode := d.u32()
	d.u32() // major
	d.u32() // minor
	gid := d.u32()
	switch mode & unix.S_IFMT {
	case 0, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return unix.EPERM
	}
	return s.make(c, d, id, name, mode, gid, func(dirfd int, name string) error {
		return unix.Mknodat(dirfd, name, mode&unix.S_IFMT|0o600, 0)
	})
}

// make makes a name in a directory by means of fn.
func (s *Session) make(c *Call, d *decoder, id uint32, nameBytes []byte, mode, gid uint32,
	fn func(dirfd int, name string) error) error {
	if d.bad {
		return unix.EINVAL
	}
	if err := checkName(nameBytes); err != nil {
		return err
	}
	dir, err := s.enter(c, id)
	if err != nil {
		return err
	}
	defer s.leave(dir)
	name := string(nameBytes)
	if err := fn(dir.fd, name); err != nil {
		return err
	}
	return s.finish(c, dir, name, mode, gid)
}

func (s *Session) link(c *Call, d *decoder) error {
	dirID, id := d.u32(), d.u32()
	name := d.str()
	if d.bad {
		return unix.EINVAL
	}
	if err := checkName(name); err != nil {
		return err
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	dir, err := s.enter(c, dirID)
	if err != nil {
		return err
	}
	defer s.leave(dir)
	fd, err := s.pin(c, f.node)
	if err != nil {
		return err
	}
	defer s.unpin(f.node)
	return unix.Linkat(unix.AT_FDCWD, procPath(fd), dir.fd, string(name), unix.AT_SYMLINK_FOLLOW)
}

func (s *Session) rename(c *Call, d *decoder) error {
	oldID := d.u32()
	oldName := d.str()
	newID := d.u32()
	newName := d.str()
	if d.bad {
		return unix.EINVAL
	}
	for _, name := range [...][]byte{oldName, newName} {
		if err := checkName(name); err != nil {
			return err
		}
	}
	from, err := s.enter(c, oldID)
	if err != nil {
		return err
	}
	defer s.leave(from)
	to, err := s.enter(c, newID)
	if err != nil {
		return err
	}
	defer s.leave(to)
	if err := unix.Renameat(from.fd, string(oldName), to.fd, string(newName)); err != nil {
		return err
	}
	s.moved(from.fid.node, string(oldName), to.fid.node, string(newName))
	return nil
}

func (s *Session) unlink(c *Call, d *decoder) error {
	id := d.u32()
	name := d.str()
	flags := d.u32()
	if d.bad || flags&^unix.AT_REMOVEDIR != 0 {
		return unix.EINVAL
	}
	if err := checkName(name); err != nil {
		return err
	}
	dir, err := s.enter(c, id)
	if err != nil {
		return err
	}
	defer s.leave(dir)
	return unix.Unlinkat(dir.fd, string(name), int(flags))
}
