package share

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// changes are the requests that a read-only share refuses.
func changes() map[string][]byte {
	return map[string][]byte{
		"write":       message(twrite, 1, uint32(1), uint64(0), uint32(1), []byte("x")),
		"create":      message(tlcreate, 1, uint32(0), "n", uint32(unix.O_RDWR), uint32(0o644), uint32(0)),
		"mkdir":       message(tmkdir, 1, uint32(0), "n", uint32(0o755), uint32(0)),
		"symlink":     message(tsymlink, 1, uint32(0), "n", "target", uint32(0)),
		"mknod":       message(tmknod, 1, uint32(0), "n", uint32(unix.S_IFIFO|0o600), uint32(0), uint32(0), uint32(0)),
		"link":        message(tlink, 1, uint32(0), uint32(1), "n"),
		"rename":      message(trenameat, 1, uint32(0), "f", uint32(0), "n"),
		"unlink":      message(tunlinkat, 1, uint32(0), "f", uint32(0)),
		"setattr":     message(tsetattr, 1, uint32(1), uint32(setMode), uint32(0o600), uint32(0), uint32(0), make([]byte, 40)),
		"xattrcreate": message(txattrcreate, 1, uint32(1), "user.x", uint64(1), uint32(0)),
		"open write":  message(tlopen, 1, uint32(1), uint32(unix.O_WRONLY)),
		"open rdwr":   message(tlopen, 1, uint32(1), uint32(unix.O_RDWR)),
		"open trunc":  message(tlopen, 1, uint32(1), uint32(unix.O_TRUNC)),
	}
}

func TestReadOnlyRefusesChanges(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir, ReadOnly: true})
	g.walkTo(0, 1, "f")
	for name, req := range changes() {
		g.fails(name, req, unix.EROFS)
	}
	entries, _ := os.ReadDir(dir)
	content, _ := os.ReadFile(dir + "/f")
	if len(entries) != 1 || string(content) != "content" {
		t.Errorf("changed: %v, %q", entries, content)
	}
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Config{Path: dir})
	gid := uint32(os.Getegid())
	g.ok(message(tmkdir, 1, uint32(0), "d", uint32(0o2751), gid))
	g.walkTo(0, 1, "d")
	g.walkTo(1, 2)
	g.ok(message(tlcreate, 1, uint32(2), "f", uint32(unix.O_RDWR|unix.O_CREAT), uint32(0o4666), gid))
	g.ok(message(twrite, 1, uint32(2), uint64(3), uint32(5), []byte("hello")))
	g.ok(message(tfsync, 1, uint32(2), uint32(1)))
	g.ok(message(tsymlink, 1, uint32(1), "l", "../tar\xffget", gid))
	g.ok(message(tmknod, 1, uint32(1), "p", uint32(unix.S_IFIFO|0o622), uint32(0), uint32(0), gid))
	g.ok(message(tlink, 1, uint32(0), uint32(2), "hard"))
	g.fails("exclusive", message(tlcreate, 1, uint32(1), "f", uint32(unix.O_EXCL), uint32(0o666), gid), unix.EEXIST)
	g.fails("create of fifo", message(tlcreate, 1, uint32(1), "p", uint32(unix.O_RDWR), uint32(0o666), gid), unix.ENXIO)
	g.fails("create through link", message(tlcreate, 1, uint32(1), "l", uint32(unix.O_RDWR), uint32(0o666), gid), unix.ELOOP)
	g.fails("name", message(tmkdir, 1, uint32(0), "../x", uint32(0o755), gid), unix.EINVAL)
	g.fails("in a file", message(tmkdir, 1, uint32(2), "x", uint32(0o755), gid), unix.ENOTDIR)

	for name, mode := range map[string]uint32{
		"d": unix.S_IFDIR | 0o751, "d/f": unix.S_IFREG | 0o666, "hard": unix.S_IFREG | 0o666, "d/l": unix.S_IFLNK | 0o777, "d/p": unix.S_IFIFO | 0o622,
	} {
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+name, &st); err != nil || st.Mode != mode {
			t.Errorf("%s: mode %o, %v, want %o", name, st.Mode, err, mode)
		}
		if os.Geteuid() == 0 && st.Uid != 1000 {
			t.Errorf("%s: owner %d, want the one of the attach", name, st.Uid)
		}
	}
	if b, _ := os.ReadFile(dir + "/hard"); string(b) != "\x00\x00\x00hello" {
		t.Errorf("content %q", b)
	}
	if target, _ := os.Readlink(dir + "/d/l"); target != "../tar\xffget" {
		t.Errorf("link %q", target)
	}
	g.fails("rmdir", message(tunlinkat, 1, uint32(0), "d", uint32(unix.AT_REMOVEDIR)), unix.ENOTEMPTY)
	g.fails("unlink of directory", message(tunlinkat, 1, uint32(0), "d", uint32(0)), unix.EISDIR)
	for _, name := range []string{"f", "l", "p"} {
		g.ok(message(tunlinkat, 1, uint32(1), name, uint32(0)))
	}
	g.ok(message(tunlinkat, 1, uint32(0), "d", uint32(unix.AT_REMOVEDIR)))
}

func TestRenameKeepsFids(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a/b/f", "content")
	put(t, dir+"/z", "")
	g := newGuest(t, Config{Path: dir, Limits: Limits{Handles: 1}})
	g.walkTo(0, 1, "a", "b", "f")
	g.walkTo(0, 2, "a", "b")
	g.ok(message(tmkdir, 1, uint32(0), "target", uint32(0o755), uint32(0)))
	g.walkTo(0, 3, "target")
	g.ok(message(trenameat, 1, uint32(0), "a", uint32(3), "moved"))
	g.walkTo(0, 4, "z")
	g.ok(message(tlopen, 1, uint32(4), uint32(0))) // takes the only handle
	g.ok(message(tgetattr, 1, uint32(1), uint64(0)))
	g.ok(message(tlopen, 1, uint32(1), uint32(0)))
	g.walkTo(2, 5, "f")
	g.fails("into itself", message(trenameat, 1, uint32(0), "target", uint32(2), "x"), unix.EINVAL)
	// What the host moved cannot make a ring of the guest's view.
	if err := os.Rename(dir+"/target/moved/b", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	g.exchange(message(trenameat, 1, uint32(0), "target", uint32(2), "x"))
	g.exchange(message(tgetattr, 1, uint32(1), uint64(0)))
	g.exchange(message(tgetattr, 1, uint32(5), uint64(0)))
}

func TestSetattr(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	g := newGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "f")
	set := func(fid, valid, mode uint32, size uint64, times ...uint64) []byte {
		fields := []any{fid, valid, mode, uint32(7), uint32(8), size}
		for _, v := range append(times, 0, 0, 0, 0)[:4] {
			fields = append(fields, v)
		}
		return message(tsetattr, 1, fields...)
	}
	g.ok(set(1, setMode, 0o6711, 0))
	g.ok(set(1, setSize, 0, 3))
	g.ok(set(1, setAtime|setMtime|setAtimeNow|setMtimeNow, 0, 0, 11, 22, 33, 44))
	var st unix.Stat_t
	if err := unix.Stat(dir+"/f", &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFREG|0o711 || st.Size != 3 || st.Atim != (unix.Timespec{Sec: 11, Nsec: 22}) || st.Mtim != (unix.Timespec{Sec: 33, Nsec: 44}) {
		t.Errorf("%+v", st)
	}
	g.ok(set(1, setMtime, 0, 0)) // now
	if err := unix.Stat(dir+"/f", &st); err != nil || st.Mtim.Sec < 1<<30 || st.Atim.Sec != 11 {
		t.Errorf("%+v, %v", st, err)
	}
	if os.Geteuid() == 0 {
		g.ok(set(1, setUID|setGID, 0, 0))
		if err := unix.Stat(dir+"/f", &st); err != nil || st.Uid != 7 || st.Gid != 8 {
			t.Errorf("%+v, %v", st, err)
		}
	}
	g.fails("size", set(1, setSize, 0, 1<<63), unix.EINVAL)
	g.fails("size of directory", set(0, setSize, 0, 1), unix.EINVAL)
	// An open file that has no name any more.
	g.ok(message(tlopen, 1, uint32(1), uint32(unix.O_RDWR)))
	if err := os.Remove(dir + "/f"); err != nil {
		t.Fatal(err)
	}
	g.ok(set(1, setSize|setMode, 0o600, 1))
	d := g.ok(message(tgetattr, 1, uint32(1), uint64(0)))
	d.take(8 + 13)
	if mode := d.u32(); mode != unix.S_IFREG|0o600 {
		t.Errorf("mode %o", mode)
	}
}

func TestXattrs(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "")
	value := bytes.Repeat([]byte("v"), 300)
	if err := unix.Setxattr(dir+"/f", "user.one", value, 0); err != nil {
		t.Logf("no user attributes in %s: %v; only refusals are tested", dir, err)
		value = nil
	}
	_ = unix.Setxattr(dir+"/f", "trusted.overlay.opaque", []byte("y"), 0)
	g := newGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "f")
	for _, name := range []string{"trusted.overlay.opaque", "security.selinux", "system.posix_acl_access"} {
		g.fails(name, message(txattrwalk, 1, uint32(1), uint32(2), name), unix.ENODATA)
		g.fails(name, message(txattrcreate, 1, uint32(1), name, uint64(1), uint32(0)), unix.EOPNOTSUPP)
	}
	g.fails("too large", message(txattrcreate, 1, uint32(1), "user.x", uint64(maxXattr+1), uint32(0)), unix.E2BIG)
	if value == nil {
		return
	}
	g.fails("missing", message(txattrwalk, 1, uint32(1), uint32(2), "user.missing"), unix.ENODATA)
	g.fails("capability", message(txattrwalk, 1, uint32(1), uint32(2), "security.capability"), unix.ENODATA)
	if size := g.ok(message(txattrwalk, 1, uint32(1), uint32(2), "user.one")).u64(); size != 300 {
		t.Errorf("size %d", size)
	}
	d := g.ok(message(tread, 1, uint32(2), uint64(100), uint32(1000)))
	if n := d.u32(); n != 200 || !bytes.Equal(d.b, value[100:]) {
		t.Errorf("read %d bytes", n)
	}
	g.fails("behind the end", message(tread, 1, uint32(2), uint64(301), uint32(1)), unix.EINVAL)
	g.ok(message(tclunk, 1, uint32(2)))
	if size := g.ok(message(txattrwalk, 1, uint32(1), uint32(2), "")).u64(); size != 9 {
		t.Errorf("list of %d bytes, want that of user.one", size)
	}

	g.walkTo(1, 3)
	g.ok(message(txattrcreate, 1, uint32(3), "user.two", uint64(5), uint32(0)))
	g.ok(message(twrite, 1, uint32(3), uint64(0), uint32(3), []byte("abc")))
	g.fails("out of order", message(twrite, 1, uint32(3), uint64(0), uint32(1), []byte("x")), unix.EINVAL)
	g.fails("too much", message(twrite, 1, uint32(3), uint64(3), uint32(3), []byte("xyz")), unix.EINVAL)
	g.ok(message(twrite, 1, uint32(3), uint64(3), uint32(2), []byte("de")))
	g.ok(message(tclunk, 1, uint32(3)))
	buf := make([]byte, 10)
	if n, err := unix.Getxattr(dir+"/f", "user.two", buf); err != nil || string(buf[:n]) != "abcde" {
		t.Errorf("user.two is %q, %v", buf[:max(n, 0)], err)
	}
	g.walkTo(1, 3)
	g.ok(message(txattrcreate, 1, uint32(3), "user.two", uint64(5), uint32(0)))
	g.fails("short", message(tclunk, 1, uint32(3)), unix.EINVAL)
	g.walkTo(1, 3)
	g.ok(message(txattrcreate, 1, uint32(3), "user.two", uint64(0), uint32(unix.XATTR_REPLACE)))
	g.ok(message(tclunk, 1, uint32(3)))
	if _, err := unix.Getxattr(dir+"/f", "user.two", buf); err != unix.ENODATA {
		t.Errorf("user.two after removal: %v", err)
	}
	var last []byte
	for id := uint32(100); id < 400; id++ {
		g.walkTo(1, id)
		if last = g.exchange(message(txattrcreate, 1, id, "user.x", uint64(maxXattr), uint32(0))); last[4] == rlerror {
			break
		}
	}
	if last[4] != rlerror || unix.Errno(last[headerBytes]) != unix.EMFILE {
		t.Error("attributes under way have no limit")
	}
}

func TestLocks(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "content")
	lock := func(fid uint32, typ uint8, start, length uint64) []byte {
		return message(tlock, 1, fid, typ, uint32(1), start, length, uint32(42), "guest")
	}
	getlock := func(fid uint32, typ uint8, start, length uint64) []byte {
		return message(tgetlock, 1, fid, typ, start, length, uint32(42), "guest")
	}
	for _, readOnly := range []bool{false, true} {
		g := newGuest(t, Config{Path: dir, ReadOnly: readOnly})
		flags := uint32(unix.O_RDWR)
		if readOnly {
			flags = unix.O_RDONLY
		}
		for id := uint32(1); id <= 2; id++ {
			g.walkTo(0, id, "f")
			g.fails("closed", lock(id, lockRead, 0, 0), unix.EBADF)
			g.ok(message(tlopen, 1, id, flags))
		}
		want := func(what string, req []byte, typ uint8) {
			t.Helper()
			if got := g.ok(req).u8(); got != typ {
				t.Errorf("read-only %v: %s: %d, want %d", readOnly, what, got, typ)
			}
		}
		blocked, holder := uint8(lockBlocked), uint8(lockWrite)
		if readOnly { // the guest's own kernel keeps them apart
			blocked, holder = lockSuccess, lockUnlock
		}
		want("lock", lock(1, lockWrite, 0, 10), lockSuccess)
		want("conflict", lock(2, lockRead, 5, 1), blocked)
		want("who", getlock(2, lockRead, 5, 1), holder)
		want("apart", lock(2, lockRead, 10, 1), lockSuccess)
		want("unlock", lock(1, lockUnlock, 0, 0), lockSuccess)
		want("after", lock(2, lockWrite, 0, 1), map[bool]uint8{false: lockSuccess, true: lockSuccess}[readOnly])
		g.fails("type", lock(1, 9, 0, 0), unix.EINVAL)
		g.fails("range", lock(1, lockRead, 1<<63, 0), unix.EINVAL)
	}
}
