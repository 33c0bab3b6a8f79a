package share

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lockResult asks for a lock.
func (g *guest) lockResult(fid uint32, typ uint8, flags uint32, start, length uint64) uint8 {
	g.t.Helper()
	return g.ok(message(tlock, 1, fid, typ, flags, start, length, uint32(42), "guest")).u8()
}

// TestLocksOfTheHost: a guest's locks hold against the host's, and the other way round, whichever calls the host uses.
func TestLocksOfTheHost(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	host, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	fd := int(host.Fd())
	byFlock := func(typ int16) error { return unix.Flock(fd, flockOp(typ)|unix.LOCK_NB) }
	byFcntl := func(typ int16) error {
		return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Whence: unix.SEEK_SET})
	}
	for _, open := range []struct {
		name  string
		flags uint32
	}{{"for writing", unix.O_RDWR}, {"for reading", unix.O_RDONLY}} {
		for name, lock := range map[string]func(int16) error{"flock": byFlock, "fcntl": byFcntl} {
			t.Run(name+", open "+open.name, func(t *testing.T) {
				if name == "fcntl" && open.flags == unix.O_RDONLY {
					t.Log("only flock(2) locks such a file for writing")
					return
				}
				g := newGuest(t, Config{Path: dir})
				g.walkTo(0, 1, "f")
				g.ok(message(tlopen, 1, uint32(1), open.flags))
				if got := g.lockResult(1, lockWrite, 0, 0, 0); got != lockSuccess {
					t.Fatalf("lock: %d", got)
				}
				if err := lock(unix.F_RDLCK); err != unix.EAGAIN {
					t.Errorf("the host locks what the guest has locked: %v", err)
				}
				g.lockResult(1, lockUnlock, 0, 0, 0)
				if err := lock(unix.F_WRLCK); err != nil {
					t.Errorf("the host locks what the guest has given back: %v", err)
				}
				if got := g.lockResult(1, lockRead, 0, 0, 0); got != lockBlocked {
					t.Errorf("the guest locks what the host has locked: %d", got)
				}
				if err := lock(unix.F_UNLCK); err != nil {
					t.Error(err)
				}
				if got := g.lockResult(1, lockRead, 0, 0, 0); got != lockSuccess {
					t.Errorf("the guest locks what the host has given back: %d", got)
				}
			})
		}
	}
}

// Linux hands a lock on to the next of its processes before the last one's unlock arrives here.
func TestLockIsAskedForAgain(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir})
	for _, fid := range []uint32{1, 2} {
		g.walkTo(0, fid, "f")
		g.ok(message(tlopen, 1, fid, uint32(unix.O_RDWR)))
	}
	second := func() uint8 {
		if got := g.lockResult(1, lockWrite, 0, 0, 10); got != lockSuccess {
			t.Fatalf("lock: %d", got)
		}
		got := make(chan uint8)
		go func() {
			c := &Call{In: [][]byte{message(tlock, 2, uint32(2), uint8(lockWrite), uint32(lockFlagWait), uint64(0), uint64(10), uint32(1), "")}, Out: [][]byte{make([]byte, 100)}}
			g.Begin(c)
			g.Handle(c)
			g.Finish(c)
			got <- c.Out[0][headerBytes]
		}()
		time.Sleep(5 * lockPause) // either order is right
		g.lockResult(1, lockUnlock, 0, 0, 0)
		return <-got
	}
	got := uint8(lockBlocked)
	for n := 0; n < 10 && got == lockBlocked; n++ { // a busy machine may be late to unlock
		got = second()
	}
	if got != lockSuccess {
		t.Errorf("the second lock: %d", got)
	}
}
