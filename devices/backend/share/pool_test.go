package share

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestPool: shares together take no more descriptors than one may, and give back what they have taken.
func TestPool(t *testing.T) {
	pool := &Pool{maxOpen: 3, maxHandles: 4}
	var guests []*guest
	for range 3 {
		dir := t.TempDir()
		for _, name := range []string{"a", "b", "c", "d"} {
			put(t, dir+"/"+name, "content")
		}
		guests = append(guests, newGuest(t, Config{Path: dir, Pool: pool}))
	}
	for i, g := range guests {
		g.walkTo(0, 1, "a")
		g.ok(message(tlopen, 1, uint32(1), uint32(unix.O_RDONLY)))
		if got := pool.open.Load(); got != int64(i+1) {
			t.Errorf("%d files are open", got)
		}
	}
	g := guests[0]
	g.walkTo(0, 2, "b")
	g.fails("one file too many", message(tlopen, 1, uint32(2), uint32(unix.O_RDONLY)), unix.EMFILE)
	guests[1].ok(message(tclunk, 1, uint32(1)))
	g.ok(message(tlopen, 1, uint32(2), uint32(unix.O_RDONLY)))
	for _, g := range guests {
		for i, name := range []string{"b", "c", "d"} {
			g.walkTo(0, uint32(10+i), name)
			g.ok(message(txattrwalk, 1, uint32(10+i), uint32(20), "")) // by a descriptor
			g.ok(message(tclunk, 1, uint32(20)))
		}
	}
	if got := pool.handles.Load(); got > pool.maxHandles+int64(len(guests)) { // one each is in use when it counts
		t.Errorf("%d descriptors name files", got)
	}
	for _, g := range guests {
		g.Session.Close()
	}
	if pool.open.Load() != 0 || pool.handles.Load() != 0 {
		t.Errorf("left: %d open, %d that name", pool.open.Load(), pool.handles.Load())
	}
}
