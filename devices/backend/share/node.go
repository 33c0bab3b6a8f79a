package share

import (
	"slices"

	"golang.org/x/sys/unix"
)

// node is a file that fids refer to: a name within its parent, and the file that was found
// there. Its descriptor is opened when needed and closed when others are needed more. All
// fields that change are guarded by Session.mu.
type node struct {
	id     fileID
	typ    uint32 // S_IFMT bits
	hidden bool   // belongs to a file system of the kernel

	parent *node // nil for the folder itself; holds a reference
	name   string
	refs   int
	pins   int // users of fd; each holds a reference too
	fd     int // O_PATH, -1 when closed

	newer, older *node // neighbours in Session.recent while fd is open and not in use
}

func (n *node) isDir() bool { return n.typ == unix.S_IFDIR }

// pin returns n's O_PATH descriptor, which stays open until unpin. The caller has a reference.
// It uses c's path and stat buffers.
func (s *Session) pin(c *Call, n *node) (int, error) {
	s.names.RLock()
	defer s.names.RUnlock()
	return s.pinNamed(c, n)
}

// pinNamed is pin for who holds s.names.
func (s *Session) pinNamed(c *Call, n *node) (int, error) {
	s.mu.Lock()
	if n.fd >= 0 {
		s.take(n)
		s.mu.Unlock()
		return n.fd, nil
	}
	base, path := s.locate(c, n)
	if base == nil {
		s.mu.Unlock()
		return -1, unix.ENAMETOOLONG
	}
	s.take(base)
	s.mu.Unlock()

	fd, err := s.share.resolver.open(base.fd, path)
	s.unpin(base)
	if err != nil {
		return -1, err
	}
	if err := s.check(c, n, fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return s.adopt(n, fd), nil
}

// locate returns the nearest ancestor of n whose descriptor is open, and n's path below it, in
// c's path buffer. It returns nil if the path is too long for the kernel. s.mu is held.
func (s *Session) locate(c *Call, n *node) (*node, []byte) {
	i := len(c.path) - 1
	c.path[i] = 0
	for {
		if len(n.name)+1 > i {
			return nil, nil
		}
		i -= copy(c.path[i-len(n.name):i], n.name)
		if n = n.parent; n.fd >= 0 {
			return n, c.path[i:]
		}
		i--
		c.path[i] = '/'
	}
}

// check makes sure that fd is the file that n stands for.
func (s *Session) check(c *Call, n *node, fd int) error {
	if err := statFD(fd, &c.st); err != nil {
		return err
	}
	if identify(&c.st) != n.id || fileType(&c.st) != n.typ {
		return unix.ESTALE
	}
	if n.id.dev == s.share.rootID.dev {
		return nil
	}
	// Another file system may be there by now that has the old one's number, and its root the same inode.
	kernels, err := isKernelFS(fd)
	if err == nil && kernels != n.hidden {
		err = unix.ESTALE
	}
	return err
}

// adopt gives n the descriptor fd, pinned, and returns the one that it has after that.
func (s *Session) adopt(n *node, fd int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.fd >= 0 {
		unix.Close(fd)
		s.take(n)
		return n.fd
	}
	n.fd = fd
	n.pins++
	n.refs++
	s.handles++
	s.share.pool.hold(1)
	for (s.handles > s.share.limits.Handles || s.share.pool.full()) && s.recent.newer != &s.recent {
		s.closeHandle(s.recent.newer)
	}
	return n.fd
}

// take pins n, whose descriptor is open. s.mu is held.
func (s *Session) take(n *node) {
	n.refs++
	n.pins++
	if n.pins == 1 && n.parent != nil {
		n.unlink()
	}
}

// unpin ends the use of n's descriptor.
func (s *Session) unpin(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.pins--
	if n.pins == 0 && n.parent != nil {
		n.link(&s.recent)
	}
	s.unref(n)
}

// closeHandle closes the descriptor of n, which nobody uses. s.mu is held.
func (s *Session) closeHandle(n *node) {
	n.unlink()
	unix.Close(n.fd) // O_PATH: nothing to lose
	n.fd = -1
	s.handles--
	s.share.pool.hold(-1)
}

// unref drops a reference to n. s.mu is held.
func (s *Session) unref(n *node) {
	for n != nil {
		n.refs--
		if n.refs > 0 {
			return
		}
		if n.parent != nil && n.fd >= 0 {
			s.closeHandle(n)
		}
		if n.parent != nil {
			s.index.remove(n)
		}
		s.nodes--
		n = n.parent
	}
}

// release drops a reference to n.
func (s *Session) release(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unref(n)
}

// child returns a node for the file called name in dir, whose attributes are in st, and makes it where there is none. The caller
// gets a reference.
func (s *Session) child(dir *node, name string, st *unix.Statx_t, hidden bool) (*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.index.find(dir, name, identify(st), fileType(st), hidden); n != nil {
		n.refs++
		return n, nil
	}
	if s.nodes >= s.share.limits.Nodes {
		return nil, unix.EMFILE
	}
	if dir.tooDeep() {
		return nil, unix.ENAMETOOLONG
	}
	s.nodes++
	dir.refs++
	n := &node{id: identify(st), typ: fileType(st), hidden: hidden, parent: dir, name: name, refs: 1, fd: -1}
	s.index.add(n)
	return n, nil
}

// statNode puts n's attributes into c.st.
func (s *Session) statNode(c *Call, n *node) error {
	s.names.RLock()
	defer s.names.RUnlock()
	s.mu.Lock()
	parent, name, open := n.parent, n.name, n.fd >= 0 || n.id.dev != s.share.rootID.dev
	if !open {
		parent.refs++
	}
	s.mu.Unlock()
	if open {
		return s.statHandle(c, n)
	}
	defer s.release(parent)
	fd, err := s.pinNamed(c, parent)
	if err != nil {
		return err
	}
	defer s.unpin(parent)
	if err := statAt(fd, c.terminated(name), &c.st); err != nil {
		return err
	}
	if identify(&c.st) != n.id || fileType(&c.st) != n.typ {
		return unix.ESTALE
	}
	return nil
}

func (s *Session) statHandle(c *Call, n *node) error {
	fd, err := s.pinNamed(c, n)
	if err != nil {
		return err
	}
	defer s.unpin(n)
	return statFD(fd, &c.st)
}

// moved makes the nodes of oldName in oldDir those of newName in newDir. s.names is held for writing since before the host knew.
func (s *Session) moved(oldDir *node, oldName string, newDir *node, newName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	above := newDir.above()
	for _, n := range slices.Clone(s.index[nameKey{oldDir.id, oldName}]) {
		// A chain of nodes never becomes a ring, not even when the host moved directories behind the guest's back.
		if above[n] {
			continue
		}
		newDir.refs++
		old := n.parent
		s.index.remove(n)
		n.parent, n.name = newDir, newName
		s.index.add(n)
		s.unref(old)
	}
}

// link makes n the newest of the ring.
func (n *node) link(ring *node) {
	n.older, n.newer = ring.older, ring
	n.older.newer, n.newer.older = n, n
}

func (n *node) unlink() {
	if n.newer == nil {
		return
	}
	n.older.newer, n.newer.older = n.newer, n.older
	n.newer, n.older = nil, nil
}
