package share

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChangedProgramsRunAsNobody: what a guest changes no longer runs as its owner on the host, although stile is root.
func TestChangedProgramsRunAsNobody(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir})
	g.share.root0 = true // for everybody else the kernel does it
	changes := map[string]func(fid uint32){
		"write": func(fid uint32) {
			g.ok(message(tlopen, 1, fid, uint32(unix.O_WRONLY)))
			g.ok(message(twrite, 1, fid, uint64(0), uint32(1), uint8('x')))
		},
		"open": func(fid uint32) { g.ok(message(tlopen, 1, fid, uint32(unix.O_RDWR|unix.O_TRUNC))) },
		"truncate": func(fid uint32) {
			g.ok(message(tsetattr, 1, fid, uint32(setSize), uint32(0), uint32(0), uint32(0), uint64(1), uint64(0), uint64(0), uint64(0), uint64(0)))
		},
	}
	fid := uint32(1)
	for name, change := range changes {
		for mode, want := range map[uint32]uint32{0o6755: 0o755, 0o4700: 0o700, 0o2644: 0o2644, 0o1755: 0o1755} {
			path := dir + "/" + name
			put(t, path, "content")
			if err := unix.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			g.walkTo(0, fid, name)
			change(fid)
			g.ok(message(tclunk, 1, fid))
			fid++
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Mode&0o7777 != want {
				t.Errorf("%s: mode %#o, was %#o, want %#o (%v)", name, st.Mode&0o7777, mode, want, err)
			}
			os.Remove(path)
		}
	}
}

// TestReadingLeavesPrograms: only a change takes the bits.
func TestReadingLeavesPrograms(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	if err := unix.Chmod(dir+"/f", 0o4755); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Config{Path: dir})
	g.share.root0 = true
	g.walkTo(0, 1, "f")
	g.ok(message(tlopen, 1, uint32(1), uint32(unix.O_RDWR)))
	g.ok(message(tread, 1, uint32(1), uint64(0), uint32(1)))
	var st unix.Stat_t
	if err := unix.Stat(dir+"/f", &st); err != nil || st.Mode&0o7777 != 0o4755 {
		t.Errorf("mode %#o, %v", st.Mode&0o7777, err)
	}
}

// TestNumbersAreUsedAgain: a file system of the kernel stays hidden although it has the number of one that was unmounted.
func TestNumbersAreUsedAgain(t *testing.T) {
	g := newGuest(t, Config{Path: "/", ReadOnly: true})
	var st unix.Statx_t
	if err := statAt(unix.AT_FDCWD, []byte("/proc\x00"), &st); err != nil {
		t.Fatal(err)
	}
	g.share.device(identify(&st).dev) // what was mounted before had files
	g.walkTo(0, 1, "proc")
	if !g.fids[1].node.hidden {
		t.Error("procfs shows itself under a number that was known")
	}
	// And where it came to the place of what a fid stands for, with the same inode number.
	n, err := g.child(g.root, "proc", &st, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.release(n)
	var c Call
	if _, err := g.pin(&c, n); err != unix.ESTALE {
		t.Errorf("pinned: %v", err)
		g.unpin(n)
	}
	if err := g.statNode(&c, n); err != unix.ESTALE {
		t.Errorf("attributes: %v", err)
	}
}
