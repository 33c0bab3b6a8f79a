package share

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLocksAreBounded: a guest takes so many byte ranges and no more, and those that it gives back count no longer.
func TestLocksAreBounded(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir})
	open := func(fid uint32) {
		g.walkTo(0, fid, "f")
		g.ok(message(tlopen, 1, fid, uint32(unix.O_RDWR)))
	}
	open(1)
	lockAll := func(fid uint32) (n int) {
		t.Helper()
		for at := uint64(0); ; at += 2 {
			if n++; n > maxLocks+1 {
				t.Fatal("no bound")
			}
			resp := g.exchange(message(tlock, 1, fid, uint8(lockWrite), uint32(0), at, uint64(1), uint32(42), "guest"))
			if resp[4] == rlerror {
				if got := unix.Errno(binary.LittleEndian.Uint32(resp[headerBytes:])); got != unix.ENOLCK {
					t.Fatalf("lock: %v", got)
				}
				return n - 1
			}
		}
	}
	if n := lockAll(1); n != maxLocks {
		t.Errorf("%d locks", n)
	}
	if got := g.lockResult(1, lockUnlock, 0, 0, 0); got != lockSuccess {
		t.Errorf("unlock: %d", got)
	}
	for range 2 * maxLocks { // as a database does
		if g.lockResult(1, lockWrite, 0, 7, 1) != lockSuccess || g.lockResult(1, lockUnlock, 0, 7, 1) != lockSuccess {
			t.Fatal("a lock that is given back counts")
		}
	}
	if n := lockAll(1); n != maxLocks {
		t.Errorf("%d locks the second time", n)
	}
	g.ok(message(tclunk, 1, uint32(1)))
	open(2)
	if n := lockAll(2); n != maxLocks {
		t.Errorf("%d locks after the file was closed", n)
	}
}

// TestPlan compares what is counted with what byte by byte comes out, and with the kernel's merging.
func TestPlan(t *testing.T) {
	const size = 64
	var held []heldRange
	var bytes [size + 1]int16
	for i := range bytes {
		bytes[i] = unix.F_UNLCK
	}
	for range 5000 {
		k := &unix.Flock_t{Type: int16(rand.IntN(3)), Start: rand.Int64N(size - 8), Len: rand.Int64N(8)} // a length of 0 is all the rest
		held = plan(held, k)
		for at := k.Start; at <= size && (k.Len == 0 || at < k.Start+k.Len); at++ {
			bytes[at] = k.Type
		}
		runs := 0
		for at, typ := range bytes {
			if typ != unix.F_UNLCK && (at == 0 || bytes[at-1] != typ) {
				runs++
			}
		}
		if len(held) != runs {
			t.Fatalf("%d ranges, byte by byte %d: %+v", len(held), runs, held)
		}
	}
}
