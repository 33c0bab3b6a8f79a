package share

import "golang.org/x/sys/unix"

// errWait ends an attempt at what the file system has not at hand. The guest never gets it.
const errWait = unix.EWOULDBLOCK

// Try does what [Session.Handle] does if that takes no longer than handing the call to somebody else: it asks for names and attributes, or for data in
// the host's page cache. Otherwise it reports false, and the call is as it was.
func (s *Session) Try(c *Call) (n int, done bool) {
	switch c.typ {
	case tgetattr, twalk, tclunk, tlopen, treaddir, treadlink, txattrwalk:
		return s.Handle(c), true
	case tread:
		return s.tryRead(c)
	}
	return 0, false
}

func (s *Session) tryRead(c *Call) (n int, done bool) {
	if c.broken || c.room < errorBytes {
		return s.Handle(c), true
	}
	body := c.body
	c.atHand = true
	err := s.dispatch(c)
	c.atHand = false
	if err == errWait {
		c.body = body
		c.reset()
		return 0, false
	}
	return c.deliver(err), true
}

// readAtHand reads up to n bytes at pos into the caller's buffers if they are in the page cache; errWait if not all of them are, or
// if the file system can't tell.
func (c *Call) readAtHand(fd int, n int, pos int64) (int, error) {
	got, err := vectorIO(unix.SYS_PREADV2, fd, c.vector(c.Out, dataBytes, n), pos, unix.RWF_NOWAIT)
	if err != nil {
		return 0, errWait
	}
	if got < n { // the file's end, unless there is more that is not at hand
		if more, err := vectorIO(unix.SYS_PREADV2, fd, c.vector(c.Out, dataBytes+got, n-got), pos+int64(got), unix.RWF_NOWAIT); err != nil || more > 0 {
			return 0, errWait
		}
	}
	return got, nil
}
