package share

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// walk makes a fid for the file that the names lead to from another one. With no names it is
// that one again.
func (s *Session) walk(c *Call, d *decoder) error {
	id, newID, count := d.u32(), d.u32(), int(d.u16())
	if d.bad || count > maxWalk {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if f.xattr.Load() != nil || f.file.Load() != nil && id == newID {
		return unix.EINVAL
	}
	epoch := s.forgetWalked()
	c.w.u16(0)
	n, walked, err := s.descend(c, d, f.node, count)
	if err != nil && walked == 0 {
		return err
	}
	binary.LittleEndian.PutUint16(c.w.b[headerBytes:], uint16(walked))
	if walked < count {
		return nil // the guest learns how far it got, and has no new fid
	}
	var old *fid
	if id == newID {
		old = f
	}
	found := &fid{node: n, uid: f.uid}
	if err := s.install(newID, found, old); err != nil {
		return err
	}
	if count > 0 {
		s.keepWalked(c, found, epoch)
	}
	return nil
}

// descend follows count names from n and appends the QIDs to c's response. It returns a
// reference to the last node if all names were found.
func (s *Session) descend(c *Call, d *decoder, n *node, count int) (_ *node, walked int, _ error) {
	s.mu.Lock()
	n.refs++
	s.mu.Unlock()
	for walked < count {
		next, err := s.step(c, n, d.str())
		s.release(n)
		if err != nil {
			return nil, walked, err
		}
		n = next
		walked++
		c.w.qid(s.share.qid(&c.st))
	}
	return n, walked, nil
}

// step returns a node for the file called name in dir, and leaves its attributes in c.st.
func (s *Session) step(c *Call, dir *node, name []byte) (*node, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if !dir.isDir() {
		return nil, unix.ENOTDIR
	}
	if dir.hidden {
		return nil, unix.ENOENT
	}
	fd, err := s.pin(c, dir)
	if err != nil {
		return nil, err
	}
	defer s.unpin(dir)
	key := string(name)
	if s.share.remote {
		return s.stepRemote(c, dir, fd, key)
	}
	path := c.terminated(key)
	if err := statAt(fd, path, &c.st); err != nil {
		return nil, err
	}
	kernels := false
	if identify(&c.st).dev != dir.id.dev {
		if kernels, err = hidden(fd, path); err != nil {
			return nil, err
		}
	}
	return s.child(dir, key, &c.st, kernels)
}

// checkName refuses what is not the name of one directory entry.
func checkName(name []byte) error {
	switch {
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	case len(name) == 0, string(name) == ".", string(name) == "..", bytes.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	}
	return nil
}
