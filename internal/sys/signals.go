package sys

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithoutSignals calls fn on a thread on which all signals are blocked that can be, and returns
// what fn does. It is for system calls that fail for good, not just early, when a signal is
// pending: those by which the kernel makes a thread. Go's runtime sends its threads SIGURG at any
// time. fn should be short: the runtime can't preempt it.
func WithoutSignals(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	err := fn()
	if restore := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); restore != nil {
		runtime.LockOSThread() // the thread is of no use to others, and ends with the goroutine
		return fmt.Errorf("unblock signals: %w", restore)
	}
	return err
}
