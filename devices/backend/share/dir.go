package share

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// An entry takes 24 bytes and its name in Rreaddir, and in getdents64(2) 20 bytes and its name,
// rounded up to 8: at least 24. So what fills 6/7 of the room there fits here.
const (
	entryBytes    = 24
	maxHostEntry  = 280
	minDirRequest = maxHostEntry*7/6 + 1
)

// readdir answers with the entries behind an offset, which is the host's own cookie for the
// position. Entries are read as they are asked for.
func (s *Session) readdir(c *Call, d *decoder) error {
	id, off, count := d.u32(), d.u64(), d.u32()
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	file := f.file.Load()
	if file == nil {
		return unix.EBADF
	}
	if !f.node.isDir() {
		return unix.ENOTDIR
	}
	pos, err := fileOffset(off)
	if err != nil {
		return err
	}
	room := min(int(count), c.room-dataBytes, int(s.msize.Load())-dataBytes, responseBytes-dataBytes)
	if room < minDirRequest {
		return unix.EINVAL
	}
	c.w.u32(0)
	if file.fd < 0 {
		s.emptyDir(c, f.node, pos)
	} else if err := s.hostDir(c, f.node, file, pos, room); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(c.w.b[headerBytes:], uint32(len(c.w.b)-dataBytes))
	return nil
}

// hostDir appends up to room bytes of entries from pos on.
func (s *Session) hostDir(c *Call, n *node, file *openFile, pos int64, room int) error {
	if c.entries == nil {
		c.entries = make([]byte, responseBytes)
	}
	file.mu.Lock()
	defer file.mu.Unlock()
	if pos != file.pos {
		if _, err := unix.Seek(file.fd, pos, unix.SEEK_SET); err != nil {
			return err
		}
	}
	file.pos = pos
	for {
		want := (room - (len(c.w.b) - dataBytes)) * 6 / 7
		if want < maxHostEntry {
			return nil
		}
		got, err := unix.Getdents(file.fd, c.entries[:want])
		if err != nil {
			return err
		}
		if got == 0 {
			return nil
		}
		if file.pos, err = s.appendEntries(c, n, file.fd, c.entries[:got]); err != nil {
			file.pos = -1
			return err
		}
	}
}

// appendEntries translates linux_dirent64 records (getdents64(2)) and returns the last one's
// offset. fd is the directory.
func (s *Session) appendEntries(c *Call, n *node, fd int, b []byte) (int64, error) {
	const nameAt = 19
	var last uint64
	for len(b) > nameAt {
		ino := binary.NativeEndian.Uint64(b)
		last = binary.NativeEndian.Uint64(b[8:])
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= nameAt || size > len(b) {
			return 0, unix.EIO
		}
		name := b[nameAt:size]
		for i, ch := range name {
			if ch == 0 {
				name = name[:i]
				break
			}
		}
		if n.parent == nil && string(name) == ".." {
			ino = n.id.ino // what is above the folder is none of the guest's business
		}
		id := fileID{dev: n.id.dev, ino: ino}
		c.entry(s.share.qidPath(id), last, s.share.entryType(fd, id, name, b[18]), name)
		b = b[size:]
	}
	return int64(last), nil
}

// emptyDir appends the entries of an empty directory from pos on.
func (s *Session) emptyDir(c *Call, n *node, pos int64) {
	if pos < 1 {
		c.entry(s.share.qidPath(n.id), 1, unix.DT_DIR, []byte("."))
	}
	if pos < 2 {
		s.mu.Lock()
		id := n.parent.id
		s.mu.Unlock()
		c.entry(s.share.qidPath(id), 2, unix.DT_DIR, []byte(".."))
	}
}

// entry appends one directory entry: qid[13] offset[8] type[1] name[s].
func (c *Call) entry(path, offset uint64, typ uint8, name []byte) {
	var q uint8
	switch typ {
	case unix.DT_DIR:
		q = qidDir
	case unix.DT_LNK:
		q = qidSymlink
	}
	c.w.qid(qid{typ: q, path: path})
	c.w.u64(offset)
	c.w.u8(typ)
	c.w.str(name)
}
