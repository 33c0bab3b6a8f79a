package share

import (
	"golang.org/x/sys/unix"
)

// These requests change the folder. They reach here only in writable shares.

// permissions are the mode bits that a guest may set on the host's file. The others are kept in [owners].
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
	if err := s.adorn(c, fd, dir.fid.uid, gid, mode); err != nil {
		return err
	}
	c.w.qid(s.share.qid(&c.st))
	return nil
}

// adorn gives the new file behind fd its owner and mode, and leaves its attributes in c.st.
func (s *Session) adorn(c *Call, fd int, uid, gid, mode uint32) error {
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	if err := s.own(c, fd, int(int32(uid)), int(int32(gid))); err != nil {
		return err
	}
	if fileType(&c.st) == unix.S_IFLNK {
		return nil
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode&permissions, 0); err != nil {
		return err
	}
	if err := s.share.owners.chmod(&c.st, mode); err != nil {
		return err
	}
	return statFD(fd, &c.st)
}

// own gives the file behind fd, whose attributes are in c.st, to a user and a group of the guest; -1 is none. A user
// without privileges has nothing to give: what such a one makes stays its own.
func (s *Session) own(c *Call, fd, uid, gid int) error {
	switch {
	case s.share.owners.root != nil:
		return s.share.owners.chown(&c.st, max(uid, -1), max(gid, -1))
	case s.share.privileged:
		return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
	}
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
	n, file, err := s.makeFile(c, dir, string(nameBytes), flags, mode, gid)
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		n, file, err = s.openExisting(c, dir, nameBytes, flags)
	}
	if err != nil {
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

// makeFile makes and opens a file. It is open before it has its mode, which may forbid what the guest opens it for.
func (s *Session) makeFile(c *Call, dir inDir, name string, flags int, mode, gid uint32) (*node, *openFile, error) {
	if err := s.reserve(); err != nil {
		return nil, nil, err
	}
	flags = flags&(unix.O_ACCMODE|passedFlags) | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | hostFlags
	fd, err := unix.Openat(dir.fd, name, flags, 0o600)
	if err != nil {
		s.unreserve()
		return nil, nil, err
	}
	if err := s.adorn(c, fd, dir.fid.uid, gid, mode); err != nil {
		s.unreserve()
		unix.Close(fd)
		return nil, nil, err
	}
	s.share.owners.standIns.forget(identify(&c.st))
	n, err := s.pinNew(c, dir.fid.node, name, fd)
	if err != nil {
		s.unreserve()
		unix.Close(fd)
		return nil, nil, err
	}
	return n, &openFile{fd: fd}, nil
}

// pinNew returns a node for the open file called name in dir, pinned. The file's attributes are in c.st.
func (s *Session) pinNew(c *Call, dir *node, name string, fd int) (*node, error) {
	handle, err := openAt(s.share.proc.Int(), c.procName(fd), unix.O_PATH)
	if err != nil {
		return nil, err
	}
	n, err := s.child(dir, name, &c.st, false)
	if err != nil {
		unix.Close(handle)
		return nil, err
	}
	s.adopt(n, handle)
	return n, nil
}

func (s *Session) openExisting(c *Call, dir inDir, name []byte, flags int) (*node, *openFile, error) {
	n, err := s.step(c, dir.fid.node, name)
	if err != nil {
		return nil, nil, err
	}
	file, err := s.openNode(c, n, flags)
	if err != nil {
		s.release(n)
		return nil, nil, err
	}
	return n, file, nil
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
	if s.deep(to.fid.node) {
		return unix.ENAMETOOLONG
	}
	replaced, last := s.share.owners.mayEnd(to.fd, string(newName))
	s.names.Lock()
	defer s.names.Unlock()
	if err := unix.Renameat(from.fd, string(oldName), to.fd, string(newName)); err != nil {
		return err
	}
	if last {
		s.share.owners.forget(replaced)
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
	removed, last := s.share.owners.mayEnd(dir.fd, string(name))
	if err := unix.Unlinkat(dir.fd, string(name), int(flags)); err != nil {
		return err
	}
	if last {
		s.share.owners.forget(removed)
	}
	return nil
}
