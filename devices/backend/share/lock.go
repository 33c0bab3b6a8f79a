package share

import (
	"time"

	"golang.org/x/sys/unix"
)

// Lock types and results of 9P2000.L (include/net/9p/9p.h, P9_LOCK_*).
const (
	lockRead   = 0
	lockWrite  = 1
	lockUnlock = 2

	lockSuccess = 0
	lockBlocked = 1

	lockFlagWait = 1 // P9_LOCK_FLAGS_BLOCK
)

// How long a lock is asked for again: one that the client does not, or does, want to wait for.
const (
	lockPause    = time.Millisecond // doubled each time
	lockPatience = 7 * lockPause
	lockWait     = 127 * lockPause
)

// lockRange is what Tlock and Tgetlock are about.
type lockRange struct {
	typ           uint8
	start, length uint64
	pid           uint32
	client        []byte
}

func (l *lockRange) flock() (*unix.Flock_t, error) {
	start, err := fileOffset(l.start)
	if err != nil {
		return nil, err
	}
	length, err := fileOffset(l.length)
	if err != nil {
		return nil, err
	}
	k := &unix.Flock_t{Whence: unix.SEEK_SET, Start: start, Len: length}
	switch l.typ {
	case lockRead:
		k.Type = unix.F_RDLCK
	case lockWrite:
		k.Type = unix.F_WRLCK
	case lockUnlock:
		k.Type = unix.F_UNLCK
	default:
		return nil, unix.EINVAL
	}
	return k, nil
}

// lock takes or gives back a lock on the host's file, which belongs to the fid (an open file description lock). In a
// read-only share nothing is locked on the host, where a guest's lock would hold up others; guests keep their own.
//
// Linux sends flock(2) as a lock of the whole file. Such a lock is taken in both of the host's ways, so that it holds
// against programs of the host whichever they use.
//
// A lock that another holds is asked for again for a moment. Linux gives a lock to the next of its own processes before
// it tells that the last one has given it back, and whoever waits for a lock asks again after 30 s only.
func (s *Session) lock(c *Call, d *decoder) error {
	id, l := d.u32(), lockRange{typ: d.u8()}
	waits := d.u32()&lockFlagWait != 0
	l.start, l.length, l.pid, l.client = d.u64(), d.u64(), d.u32(), d.str()
	file, done, err := s.lockable(d, id)
	if err != nil {
		return err
	}
	defer done()
	k, err := l.flock()
	if err != nil {
		return err
	}
	if s.share.readOnly {
		c.w.u8(lockSuccess)
		return nil
	}
	patience := lockPatience
	if waits {
		patience = lockWait
	}
	for pause := lockPause; ; pause *= 2 {
		err = s.lockBounded(file, k)
		if err != unix.EAGAIN || patience <= 0 {
			break
		}
		time.Sleep(pause)
		patience -= pause
	}
	switch err {
	case nil:
		c.w.u8(lockSuccess)
	case unix.EAGAIN:
		c.w.u8(lockBlocked)
	default:
		return err
	}
	return nil
}

// lock takes the lock on the host. EAGAIN says that another has it.
func (f *openFile) lock(k *unix.Flock_t) error {
	whole := k.Start == 0 && k.Len == 0
	if whole {
		if err := unix.Flock(f.fd, flockOp(k.Type)|unix.LOCK_NB); err != nil {
			return err
		}
	}
	err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, k)
	switch {
	case err == unix.EACCES:
		err = unix.EAGAIN
	case err == unix.EBADF && whole:
		return nil // flock(2) takes a lock for writing also on a file that is open for reading
	}
	if err != nil && whole && k.Type != unix.F_UNLCK {
		_ = unix.Flock(f.fd, unix.LOCK_UN)
	}
	return err
}

func flockOp(typ int16) int {
	switch typ {
	case unix.F_RDLCK:
		return unix.LOCK_SH
	case unix.F_WRLCK:
		return unix.LOCK_EX
	}
	return unix.LOCK_UN
}

func (s *Session) getlock(c *Call, d *decoder) error {
	id, l := d.u32(), lockRange{typ: d.u8()}
	l.start, l.length, l.pid, l.client = d.u64(), d.u64(), d.u32(), d.str()
	file, done, err := s.lockable(d, id)
	if err != nil {
		return err
	}
	defer done()
	k, err := l.flock()
	if err != nil {
		return err
	}
	if s.share.readOnly {
		k.Type = unix.F_UNLCK
	} else if err := unix.FcntlFlock(uintptr(file.fd), unix.F_OFD_GETLK, k); err != nil {
		return err
	}
	switch k.Type {
	case unix.F_RDLCK:
		c.w.u8(lockRead)
	case unix.F_WRLCK:
		c.w.u8(lockWrite)
	default:
		c.w.u8(lockUnlock)
	}
	c.w.u64(uint64(k.Start))
	c.w.u64(uint64(k.Len))
	c.w.u32(l.pid)
	c.w.str(l.client)
	return nil
}

// lockable returns the open file of the fid, and what ends its use.
func (s *Session) lockable(d *decoder, id uint32) (*openFile, func(), error) {
	if d.bad {
		return nil, nil, unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return nil, nil, err
	}
	file := f.file.Load()
	if file == nil || file.fd < 0 {
		s.put(f)
		return nil, nil, unix.EBADF
	}
	return file, func() { s.put(f) }, nil
}
