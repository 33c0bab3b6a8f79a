package share

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// standIns are the special files that empty regular files of the host stand for until the share ends. The guest sees a
// device node, FIFO or socket and its kernel opens that by itself, as it does with those of any file system; the host has
// no device node that a guest made. Nothing of it is stored, so no later guest is shown what an earlier one has made.
type standIns struct {
	limit int // files

	n    atomic.Int64 // len(kept), to be read without mu
	mu   sync.RWMutex
	kept map[fileID]standIn
}

// standIn is what the guest sees in place of a regular file.
type standIn struct {
	born         unix.StatxTimestamp // of the regular file: a later one may have its inode number
	typ          uint16              // S_IFMT bits
	major, minor uint32
}

// Device numbers of Linux (MINORBITS in include/linux/kdev_t.h).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// newStandIn returns what a Tmknod asks for. Only devices have numbers.
func newStandIn(mode, major, minor uint32) (standIn, error) {
	typ := mode & unix.S_IFMT
	if typ != unix.S_IFCHR && typ != unix.S_IFBLK {
		return standIn{typ: uint16(typ)}, nil
	}
	if major > maxMajor || minor > maxMinor {
		return standIn{}, unix.EINVAL
	}
	return standIn{typ: uint16(typ), major: major, minor: minor}, nil
}

// add lets the file whose attributes on the host are in st stand for n.
func (s *standIns) add(st *unix.Statx_t, n standIn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := identify(st)
	if _, was := s.kept[id]; !was && len(s.kept) >= s.limit {
		return unix.ENOSPC
	}
	n.born = st.Btime
	s.kept[id] = n
	s.n.Store(int64(len(s.kept)))
	return nil
}

// may reports whether the file may be one that stands for another; find knows.
func (s *standIns) may(id fileID) bool {
	if s.n.Load() == 0 {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.kept[id]
	return ok
}

// find returns what the file whose attributes on the host are in st stands for. A file into which the host has written,
// or which has taken the other's place, stands for itself.
func (s *standIns) find(st *unix.Statx_t) (standIn, bool) {
	if s.n.Load() == 0 || fileType(st) != unix.S_IFREG || st.Size != 0 {
		return standIn{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.kept[identify(st)]
	return n, ok && n.born == st.Btime
}

// show turns the attributes of such a file into those of what it stands for.
func (s *standIns) show(st *unix.Statx_t) {
	n, ok := s.find(st)
	if !ok {
		return
	}
	st.Mode = st.Mode&^unix.S_IFMT | n.typ
	st.Rdev_major, st.Rdev_minor = n.major, n.minor
	st.Blocks = 0
}

func (s *standIns) forget(id fileID) {
	if s.n.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, id)
	s.n.Store(int64(len(s.kept)))
}

// standsIn reports whether n's file stands for a special one.
func (s *Session) standsIn(c *Call, n *node) (bool, error) {
	if !s.share.owners.standIns.may(n.id) {
		return false, nil
	}
	if err := s.statNode(c, n); err != nil {
		return false, err
	}
	_, ok := s.share.owners.standIns.find(&c.st)
	return ok, nil
}

// entryType returns the type of a directory entry, of which the host says typ.
func (s *Share) entryType(dirfd int, id fileID, name []byte, typ uint8) uint8 {
	if typ != unix.DT_REG || !s.owners.standIns.may(id) {
		return typ
	}
	var st unix.Statx_t
	if err := statAt(dirfd, append(append([]byte(nil), name...), 0), &st); err != nil {
		return unix.DT_UNKNOWN
	}
	s.owners.standIns.show(&st)
	return uint8(fileType(&st) >> 12) // IFTODT of dirent.h
}
