package child

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// leash is a pipe that kills a process group when its write end is closed.
type leash struct {
	read  *os.File // the group inherits it
	write *os.File
	once  sync.Once
}

func newLeash() (*leash, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe to a child: %w", err)
	}
	return &leash{read: os.NewFile(uintptr(fds[0]), "leash"), write: os.NewFile(uintptr(fds[1]), "leash")}, nil
}

// tie has the kernel signal the group. Where it can't, the parent death signal is left, which reaches the child alone.
func (l *leash) tie(group int) {
	fd := l.read.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETOWN, -group); err != nil {
		return
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETSIG, int(syscall.SIGKILL)); err != nil {
		return
	}
	_, _ = unix.FcntlInt(fd, unix.F_SETFL, unix.O_ASYNC)
}

// cut breaks the leash. Further calls do nothing.
func (l *leash) cut() { l.once.Do(func() { l.write.Close() }) }
