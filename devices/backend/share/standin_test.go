package share

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// shownNode is what Rgetattr says of a special file.
type shownNode struct {
	shown
	device, size uint64
}

func (g *guest) shownNode(fid uint32) shownNode {
	g.t.Helper()
	d := g.ok(message(tgetattr, 1, fid, uint64(0x7ff)))
	d.take(8 + 13)
	return shownNode{shown{d.u32(), d.u32(), d.u32(), d.u64()}, d.u64(), d.u64()}
}

func makeNode(name string, mode, major, minor uint32) []byte {
	return message(tmknod, 1, uint32(0), name, mode, major, minor, uint32(os.Getegid()))
}

// entryTypes returns the types of the folder's entries.
func (g *guest) entryTypes(fid uint32) map[string]uint8 {
	g.t.Helper()
	g.walkTo(0, fid)
	g.ok(message(tlopen, 1, fid, uint32(0)))
	d := g.ok(message(treaddir, 1, fid, uint64(0), uint32(8000)))
	g.ok(message(tclunk, 1, fid))
	types := make(map[string]uint8)
	d.u32()
	for len(d.b) > 0 && !d.bad {
		d.take(13 + 8)
		typ := d.u8()
		types[string(d.str())] = typ
	}
	return types
}

// TestDeviceNodes: the guest has its node, the host an empty file, and the next guest that too. It also runs as a user without
// privileges.
func TestDeviceNodes(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir, Owner: me()})
	g.ok(makeNode("zero", unix.S_IFCHR|0o4666, 1, 5))
	g.ok(makeNode("disk", unix.S_IFBLK|0o640, 4095, 1<<20-1))
	g.walkTo(0, 1, "zero")
	g.walkTo(0, 2, "disk")
	want := func(what string, fid uint32, want shownNode) {
		t.Helper()
		if got := g.shownNode(fid); got != want {
			t.Errorf("%s: %+v (mode %o), want %+v", what, got, got.mode, want)
		}
	}
	want("character device", 1, shownNode{shown{unix.S_IFCHR | 0o4666, 1000, uint32(os.Getegid()), 1}, 1<<8 | 5, 0})
	want("block device", 2, shownNode{shown{unix.S_IFBLK | 0o640, 1000, uint32(os.Getegid()), 1}, 0xffffffff, 0})
	for name, mode := range map[string]uint32{"zero": 0o666, "disk": 0o640} {
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+name, &st); err != nil || st.Mode != unix.S_IFREG|mode || st.Size != 0 {
			t.Errorf("%s on the host: mode %o, %d bytes, %v", name, st.Mode, st.Size, err)
		}
	}
	if types := g.entryTypes(9); types["zero"] != unix.DT_CHR || types["disk"] != unix.DT_BLK {
		t.Errorf("types of entries: %v", types)
	}

	// It is a file like others, but for its content.
	g.ok(setOwner(1, setMode|setUID|setGID, 0o600, 12, 34))
	g.ok(message(tlink, 1, uint32(0), uint32(1), "hard"))
	g.ok(message(trenameat, 1, uint32(0), "zero", uint32(0), "moved"))
	g.walkTo(0, 3, "moved")
	g.walkTo(0, 4, "hard")
	for _, fid := range []uint32{1, 3, 4} {
		want("changed", fid, shownNode{shown{unix.S_IFCHR | 0o600, 12, 34, 2}, 1<<8 | 5, 0})
	}
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR, unix.O_TRUNC} {
		g.fails("open", message(tlopen, 1, uint32(3), uint32(flags)), unix.ENXIO)
	}
	g.walkTo(0, 5)
	g.fails("create", message(tlcreate, 1, uint32(5), "moved", uint32(unix.O_WRONLY), uint32(0o666), uint32(0)), unix.ENXIO)
	g.fails("truncate", message(tsetattr, 1, uint32(3), uint32(setSize), uint32(0), uint32(0), uint32(0), uint64(9), uint64(0), uint64(0), uint64(0), uint64(0)), unix.EINVAL)
	g.fails("again", makeNode("moved", unix.S_IFCHR, 1, 3), unix.EEXIST)

	// The next guest does not believe this one.
	next := newGuest(t, Config{Path: dir, Owner: me()})
	next.walkTo(0, 1, "moved")
	if got := next.shownNode(1); got.mode != unix.S_IFREG|0o600 || got.device != 0 {
		t.Errorf("the next guest sees mode %o, device %#x", got.mode, got.device)
	}

	// What the host writes there is a file, and the last unlink ends the node.
	put(t, dir+"/disk", "content")
	if got := g.shownNode(2); got.mode != unix.S_IFREG|0o640 || got.size != 7 {
		t.Errorf("written by the host: mode %o, %d bytes", got.mode, got.size)
	}
	g.ok(message(tunlinkat, 1, uint32(0), "disk", uint32(0)))
	g.ok(message(tunlinkat, 1, uint32(0), "moved", uint32(0)))
	want("one link left", 4, shownNode{shown{unix.S_IFCHR | 0o600, 12, 34, 1}, 1<<8 | 5, 0})
	g.ok(message(trenameat, 1, uint32(0), "hard", uint32(0), "last"))
	put(t, dir+"/f", "")
	g.ok(message(trenameat, 1, uint32(0), "f", uint32(0), "last"))
	if n := g.share.owners.standIns.n.Load(); n != 0 {
		t.Errorf("%d nodes are kept that are gone", n)
	}
}

func TestNodesThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir})
	g.share.owners.standIns.limit = 2
	g.fails("major", makeNode("n", unix.S_IFCHR, 4096, 0), unix.EINVAL)
	g.fails("minor", makeNode("n", unix.S_IFBLK, 0, 1<<20), unix.EINVAL)
	for _, typ := range []uint32{unix.S_IFDIR, unix.S_IFLNK, unix.S_IFMT} {
		g.fails("type", makeNode("n", typ|0o600, 0, 0), unix.EINVAL)
	}
	g.ok(makeNode("a", unix.S_IFCHR, 1, 3))
	g.ok(makeNode("b", unix.S_IFCHR, 1, 3))
	g.fails("one too many", makeNode("c", unix.S_IFCHR, 1, 3), unix.ENOSPC)
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left on the host: %v", entries)
	}
	// The host took the node's name away; the inode may be the new file's.
	for _, name := range []string{"a", "b"} {
		if err := os.Remove(dir + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	g.ok(makeNode("file", unix.S_IFREG|0o600, 0, 0))
	g.walkTo(0, 1)
	g.ok(message(tlcreate, 1, uint32(1), "created", uint32(unix.O_RDWR), uint32(0o600), uint32(os.Getegid())))
	if types := g.entryTypes(2); types["file"] != unix.DT_REG || types["created"] != unix.DT_REG {
		t.Errorf("types of entries: %v", types)
	}
}

// TestFileSystemsWithoutNodes: FIFOs and sockets are kept like devices where the host's file system refuses them.
func TestFileSystemsWithoutNodes(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir})
	var refusal error
	g.share.makeNode = func(int, string, uint32, int) error { return refusal }
	fid := uint32(1)
	for _, errno := range []unix.Errno{unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.ENXIO} {
		refusal = errno
		for name, typ := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK} {
			g.ok(makeNode(name, typ|0o622, 0, 0))
			g.walkTo(0, fid, name)
			if got := g.shownNode(fid); got.mode != typ|0o622 || got.device != 0 {
				t.Errorf("%s after %v: mode %o, device %#x", name, errno, got.mode, got.device)
			}
			if got := g.entryTypes(99)[name]; uint32(got) != typ>>12 {
				t.Errorf("%s after %v: type %d in the directory", name, errno, got)
			}
			g.fails("open", message(tlopen, 1, fid, uint32(unix.O_RDWR)), unix.ENXIO)
			g.ok(message(tunlinkat, 1, uint32(0), name, uint32(0)))
			fid++
		}
	}
	for _, errno := range []unix.Errno{unix.EEXIST, unix.EACCES, unix.EROFS, unix.ENOSPC, unix.EIO} {
		refusal = errno
		g.fails("fifo", makeNode("fifo", unix.S_IFIFO|0o622, 0, 0), errno)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left on the host: %v", entries)
	}
}
