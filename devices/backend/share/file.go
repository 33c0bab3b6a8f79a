package share

import (
	"cmp"

	"golang.org/x/sys/unix"
)

// Open flags that reach the host, beside the access mode. 9P2000.L's are the numbers of Linux
// on x86 (include/net/9p/9p.h, P9_DOTL_*).
const passedFlags = unix.O_TRUNC | unix.O_APPEND | unix.O_DSYNC | unix.O_SYNC

// hostFlags are added: nothing waits, no terminal becomes ours.
const hostFlags = unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

func (s *Session) open(c *Call, d *decoder) error {
	id, flags := d.u32(), int(d.u32())
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if f.file.Load() != nil || f.xattr.Load() != nil {
		return unix.EINVAL
	}
	file, err := s.openNode(c, f.node, flags)
	if err != nil {
		return err
	}
	if !f.file.CompareAndSwap(nil, file) { // two Tlopen at once
		s.unreserve()
		s.closeFile(f.node, file)
		return unix.EINVAL
	}
	c.w.qid(s.share.qid(&c.st))
	c.w.u32(0) // no preference for the size of transfers
	return nil
}

// openNode opens n for reading or writing, counts it as open, and leaves its attributes in
// c.st.
func (s *Session) openNode(c *Call, n *node, flags int) (*openFile, error) {
	writes := flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
	switch {
	case n.isDir() && writes:
		return nil, unix.EISDIR
	case n.typ == unix.S_IFLNK:
		return nil, unix.ELOOP
	case !n.isDir() && n.typ != unix.S_IFREG:
		return nil, unix.ENXIO
	case n.hidden && !n.isDir():
		return nil, unix.EACCES
	case writes && s.share.readOnly:
		return nil, unix.EROFS
	}
	if special, err := s.standsIn(c, n); special || err != nil {
		return nil, cmp.Or(err, error(unix.ENXIO))
	}
	if err := s.reserve(); err != nil {
		return nil, err
	}
	fd, err := s.openHandle(c, n, flags)
	if err != nil {
		s.unreserve()
		return nil, err
	}
	return &openFile{fd: fd}, nil
}

// openHandle opens n and leaves it pinned.
func (s *Session) openHandle(c *Call, n *node, flags int) (int, error) {
	handle, err := s.pin(c, n)
	if err != nil {
		return -1, err
	}
	fd := -1
	if !n.hidden {
		flags = flags&(unix.O_ACCMODE|passedFlags) | hostFlags
		fd, err = openAt(s.share.proc.Int(), c.procName(handle), flags)
	}
	if err == nil && fd >= 0 && flags&unix.O_TRUNC != 0 {
		err = s.share.unprivilege(c, fd)
	}
	if err == nil {
		err = statFD(handle, &c.st)
	}
	if err != nil {
		s.closeFile(n, &openFile{fd: fd})
		return -1, err
	}
	return fd, nil
}

// read moves data from the file into the caller's buffers, behind the header.
func (s *Session) read(c *Call, d *decoder) error {
	id, off, count := d.u32(), d.u64(), d.u32()
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	room := min(c.room, int(s.msize.Load())) - dataBytes
	n := int(min(uint64(count), uint64(room)))
	if x := f.xattr.Load(); x != nil {
		return x.read(c, off, min(n, responseBytes-dataBytes))
	}
	file := f.file.Load()
	if file == nil {
		return unix.EBADF
	}
	if f.node.isDir() {
		return unix.EISDIR
	}
	pos, err := fileOffset(off)
	if err != nil {
		return err
	}
	var got int
	if c.atHand {
		got, err = c.readAtHand(file.fd, n, pos)
	} else {
		got, err = vectorIO(unix.SYS_PREADV, file.fd, c.vector(c.Out, dataBytes, n), pos, 0)
	}
	if err != nil {
		return err
	}
	c.w.u32(uint32(got))
	c.data = got
	return nil
}

// write moves data from the caller's buffers into the file.
func (s *Session) write(c *Call, d *decoder) error {
	id, off, count := d.u32(), d.u64(), d.u32()
	if d.bad || uint64(count) > uint64(c.size-writeBytes) {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	data := c.vector(c.In, writeBytes, int(count))
	if x := f.xattr.Load(); x != nil {
		return x.write(c, off, data)
	}
	file := f.file.Load()
	if file == nil || f.node.isDir() {
		return unix.EBADF
	}
	pos, err := fileOffset(off)
	if err != nil {
		return err
	}
	if err := s.share.unprivilege(c, file.fd); err != nil {
		return err
	}
	n, err := vectorIO(unix.SYS_PWRITEV, file.fd, data, pos, 0)
	if err != nil {
		return err
	}
	c.w.u32(uint32(n))
	return nil
}

func (s *Session) fsync(_ *Call, d *decoder) error {
	id := d.u32()
	var dataOnly uint32
	if len(d.b) > 0 { // older clients leave it out
		dataOnly = d.u32()
	}
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	file := f.file.Load()
	switch {
	case file == nil:
		return unix.EBADF
	case s.share.readOnly, file.fd < 0:
		return nil
	case dataOnly != 0:
		return unix.Fdatasync(file.fd)
	}
	return unix.Fsync(file.fd)
}
