package share

import (
	"time"

	"golang.org/x/sys/unix"
)

// lookupMask are the attributes that Linux's v9fs asks for right behind a walk, to make an inode of the new fid: P9_STATS_BASIC and
// P9_STATS_GEN (fs/9p/vfs_inode_dotl.c). What stat(2) asks for is another mask, P9_STATS_ALL.
const lookupMask = statsBasic | 0x1000

// walkedFor bounds the time between the two.
const walkedFor = 100 * time.Millisecond

// walked are the attributes that the last walk has found, for the lookup that the walk is a part of: the file system is
// not asked for them twice within one system call of the guest. They answer the first request for the new fid's
// attributes, if it has that mask and no request of another kind came in between.
type walked struct {
	fid   *fid
	st    unix.Statx_t
	time  time.Time
	epoch uint64 // counts what ends the attributes' use
}

// keepWalked keeps c's attributes, which are those of f, unless a request that was under way meanwhile may have changed them: epoch is
// what forgetWalked has returned before they were asked for.
func (s *Session) keepWalked(c *Call, f *fid, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch == s.walked.epoch {
		s.walked = walked{fid: f, st: c.st, time: time.Now(), epoch: epoch}
	}
}

// takeWalked puts what the walk to f has found into c.st, once, and reports whether it is there.
func (s *Session) takeWalked(c *Call, f *fid, mask uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.walked.fid != f {
		return false
	}
	s.walked.fid = nil
	if mask != lookupMask || time.Since(s.walked.time) > walkedFor {
		return false
	}
	c.st = s.walked.st
	return true
}

// forgetWalked ends the use of what was kept.
func (s *Session) forgetWalked() (epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walked.fid = nil
	s.walked.epoch++
	return s.walked.epoch
}
