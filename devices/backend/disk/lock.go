package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The lock is QEMU's, so that QEMU and stile keep away from each other's images (block/file-posix.c there). Each is
// a read lock of an open file description (F_OFD_SETLK) on one byte: byte 100+p says that its holder uses permission p,
// byte 200+p that it does not share p. Who uses p must find 200+p free, who does not share p 100+p. Two
// that come at once may both fail.
const (
	lockUse     = 100
	lockNoShare = 200

	permRead   = 0 // read what nobody else changes
	permWrite  = 1
	permResize = 3
)

// permissions that are used, and not shared, by who writes and by who only reads.
var (
	writerUses = []int64{permRead, permWrite, permResize}
	readerUses = []int64{permRead}
	notShared  = []int64{permWrite, permResize}
)

// lock takes the lock until the file is closed.
func (f *file) lock(writes bool) error {
	uses := readerUses
	if writes {
		uses = writerUses
	}
	for _, base := range []struct {
		at, conflicts int64
		perms         []int64
	}{{lockUse, lockNoShare, uses}, {lockNoShare, lockUse, notShared}} {
		for _, p := range base.perms {
			if err := f.lockByte(base.at + p); err != nil {
				return fmt.Errorf("lock: %w", err)
			}
			held, err := f.isLocked(base.conflicts + p)
			if err != nil {
				return fmt.Errorf("lock: %w", err)
			}
			if held {
				return f.inUse(writes)
			}
		}
	}
	return nil
}

func (f *file) lockByte(at int64) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	err := unix.FcntlFlock(uintptr(f.fd.Int()), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a network file system without locks
	}
	return err
}

// isLocked reports whether another open file has a lock on the byte.
func (f *file) isLocked(at int64) (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	if err := unix.FcntlFlock(uintptr(f.fd.Int()), unix.F_OFD_GETLK, &l); err != nil {
		return false, err
	}
	return l.Type != unix.F_UNLCK, nil
}

// ErrInUse is wrapped by the error for an image that somebody else has open and does not share.
var ErrInUse = errors.New("in use")

func (f *file) inUse(writes bool) error {
	holder := f.holder()
	if writes {
		return fmt.Errorf("%w by %s: end that first, or add cow or ro, which go together with others that only read", ErrInUse, holder)
	}
	return fmt.Errorf("%w by %s, which writes to it: end that first", ErrInUse, holder)
}

// holder names the process that has the file locked, as far as this user may see it: OFD locks have no owner that
// the kernel would tell, but an open file's fdinfo lists its own.
func (f *file) holder() string {
	const unknown = "another process"
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return unknown
	}
	own := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.fd.Int())
	for _, fd := range descriptors {
		var st unix.Stat_t
		if fd == own || unix.Stat(fd, &st) != nil || (fileID{st.Dev, st.Ino}) != f.id {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		info, err := os.ReadFile(filepath.Join(process, "fdinfo", filepath.Base(fd)))
		if err == nil && strings.Contains(string(info), "OFDLCK") {
			return describe(filepath.Base(process))
		}
	}
	return unknown
}

func describe(pid string) string {
	if pid == strconv.Itoa(os.Getpid()) {
		return "this stile itself, which was given it twice"
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err != nil {
		return "process " + pid
	}
	const longest = 80
	text := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	return fmt.Sprintf("process %s (%s)", pid, text)
}
