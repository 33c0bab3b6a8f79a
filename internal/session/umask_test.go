package session

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestUmask(t *testing.T) {
	old := unix.Umask(0o037)
	defer unix.Umask(old)
	if m := umask(); m == nil || *m != 0o037 {
		t.Errorf("%v", m)
	}
}
