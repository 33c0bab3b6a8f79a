package share

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// shown is what Rgetattr says of mode, owner and links.
type shown struct {
	mode, uid, gid uint32
	links          uint64
}

func (g *guest) shown(fid uint32) shown {
	g.t.Helper()
	d := g.ok(message(tgetattr, 1, fid, uint64(0x7ff)))
	d.take(8 + 13)
	return shown{d.u32(), d.u32(), d.u32(), d.u64()}
}

func setOwner(fid uint32, valid, mode, uid, gid uint32) []byte {
	return message(tsetattr, 1, fid, valid, mode, uid, gid, uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
}

// me is this process's user as the guest's root.
func me() *Owner { return &Owner{uint32(os.Geteuid()), uint32(os.Getegid())} }

// TestOwner also runs as a user without privileges.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir, Owner: me()})
	g.walkTo(0, 1, "f")
	want := func(what string, fid uint32, want shown) {
		t.Helper()
		if got := g.shown(fid); got != want {
			t.Errorf("%s: %+v (mode %o), want %+v", what, got, got.mode, want)
		}
	}
	want("before", 1, shown{unix.S_IFREG | 0o644, 0, 0, 1})
	g.ok(setOwner(1, setUID, 0, 1234, 0))
	want("user given", 1, shown{unix.S_IFREG | 0o644, 1234, 0, 1})
	g.ok(setOwner(1, setGID, 0, 0, 77))
	want("group given", 1, shown{unix.S_IFREG | 0o644, 1234, 77, 1})
	g.ok(setOwner(1, setMode, 0o6750, 0, 0))
	want("special bits", 1, shown{unix.S_IFREG | 0o6750, 1234, 77, 1})
	var st unix.Stat_t
	if err := unix.Stat(dir+"/f", &st); err != nil || st.Mode != unix.S_IFREG|0o750 || int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		t.Errorf("on the host: mode %o of %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}

	// A hard link is the same file; a rename takes the owner along, and the last unlink ends what was kept.
	g.ok(message(tlink, 1, uint32(0), uint32(1), "hard"))
	g.ok(message(tunlinkat, 1, uint32(0), "f", uint32(0)))
	g.ok(message(trenameat, 1, uint32(0), "hard", uint32(0), "moved"))
	g.walkTo(0, 2, "moved")
	want("moved", 2, shown{unix.S_IFREG | 0o6750, 1234, 77, 1})
	g.ok(message(tunlinkat, 1, uint32(0), "moved", uint32(0)))
	if n := g.share.owners.n.Load(); n != 0 {
		t.Errorf("%d owners are kept of files that are gone", n)
	}

	// What a user of the guest makes is that user's: the attach says who.
	g.ok(message(tattach, 1, uint32(9), uint32(noFID), "user", "", uint32(500)))
	g.ok(message(tmkdir, 1, uint32(9), "d", uint32(0o755), uint32(600)))
	g.walkTo(0, 3, "d")
	want("made by a user", 3, shown{unix.S_IFDIR | 0o755, 500, 600, 2})
	g.ok(setOwner(3, setUID|setGID, 0, 0, 0))
	want("given back to root", 3, shown{unix.S_IFDIR | 0o755, 0, 0, 2})
	if n := g.share.owners.n.Load(); n != 0 {
		t.Errorf("%d owners are kept of root's files", n)
	}
}

func TestOwnersOfOthersCannotBeSet(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "")
	g := newGuest(t, Config{Path: dir, Owner: &Owner{4321, 4321}})
	g.walkTo(0, 1, "f")
	g.fails("chown of another's file", setOwner(1, setUID, 0, 7, 0), unix.EPERM)
}

func TestOwnersAreBounded(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		put(t, dir+"/"+name, "")
	}
	g := newGuest(t, Config{Path: dir, Owner: me(), Limits: Limits{Nodes: 2}})
	for i, name := range []string{"a", "b", "c"} {
		g.walkTo(0, 1, name)
		req := setOwner(1, setUID, 0, 7, 0)
		if i < 2 {
			g.ok(req)
		} else {
			g.fails("one too many", req, unix.ENOSPC)
		}
		g.ok(message(tclunk, 1, uint32(1)))
	}
}

// git makes its objects read-only and writes them through the descriptor that made them. TestUnwritable also runs as a
// user without privileges, for whom that mode counts.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir, Owner: me()})
	g.walkTo(0, 1)
	g.ok(message(tlcreate, 1, uint32(1), "object", uint32(unix.O_RDWR|unix.O_EXCL), uint32(0o444), uint32(0)))
	g.ok(message(twrite, 1, uint32(1), uint64(0), uint32(5), []byte("bytes")))
	g.ok(message(tsetattr, 1, uint32(1), uint32(setSize), uint32(0), uint32(0), uint32(0), uint64(3), uint64(0), uint64(0), uint64(0), uint64(0)))
	if b, err := os.ReadFile(dir + "/object"); err != nil || string(b) != "byt" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Stat(dir + "/object"); err != nil || st.Mode() != 0o444 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// Linux asks for the attributes of an open file by the fid of its name.
func TestUnlinkedFileKeepsItsAttributes(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir, Limits: Limits{Handles: 1}})
	g.walkTo(0, 1, "f")
	g.walkTo(1, 2)
	g.ok(message(tlopen, 1, uint32(2), uint32(unix.O_RDWR)))
	g.walkTo(0, 3)
	g.ok(message(tlcreate, 1, uint32(3), "new", uint32(unix.O_RDWR), uint32(0o600), uint32(0)))
	for _, name := range []string{"f", "new"} {
		g.ok(message(tunlinkat, 1, uint32(0), name, uint32(0)))
	}
	for _, fid := range []uint32{1, 2, 3} {
		if got := g.shown(fid); got.links != 0 {
			t.Errorf("fid %d: %d links", fid, got.links)
		}
	}
}

func TestCapabilitiesCannotBeSet(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "")
	g := newGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "f")
	g.fails("set", message(txattrcreate, 1, uint32(1), capability, uint64(20), uint32(0)), unix.EOPNOTSUPP)
	g.fails("empty", message(txattrcreate, 1, uint32(1), capability, uint64(0), uint32(0)), unix.EOPNOTSUPP)
	g.ok(message(txattrcreate, 1, uint32(1), capability, uint64(0), uint32(removeOnEmpty)))
	g.fails("there is none", message(tclunk, 1, uint32(1)), unix.ENODATA)
}
