package sys

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// blocked returns the signals that are blocked on this thread, a bit each, from 1 on.
func blocked(t *testing.T) uint64 {
	t.Helper()
	var set unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
		t.Fatal(err)
	}
	return set.Val[0]
}

func TestWithoutSignals(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const never = 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1)
	before, cause := blocked(t), errors.New("why")
	err := WithoutSignals(func() error {
		if got := blocked(t); got|never != ^uint64(0) {
			t.Errorf("blocked are %#x", got)
		}
		return cause
	})
	if err != cause {
		t.Errorf("returned %v", err)
	}
	if got := blocked(t); got != before {
		t.Errorf("blocked are %#x afterwards, were %#x", got, before)
	}
}
