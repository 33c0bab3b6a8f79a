package share_test

import (
	"os"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "hello")
	must(t, os.Link(dir+"/f", dir+"/g"))
	must(t, os.Chmod(dir+"/f", 0o640))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999999999}}, 0))
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := walk(t, root, "f")
	for _, state := range []string{"closed", "open"} {
		qid, _, attr, err := f.GetAttr(p9.AttrMaskAll)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/f", &st))
		want := p9.Attr{
			Mode: p9.FileMode(st.Mode), UID: p9.UID(st.Uid), GID: p9.GID(st.Gid), NLink: 2, Size: 5,
			BlockSize: uint64(st.Blksize), Blocks: uint64(st.Blocks),
			ATimeSeconds: 1, ATimeNanoSeconds: 2, MTimeSeconds: 3, MTimeNanoSeconds: 999999999,
			CTimeSeconds: uint64(st.Ctim.Sec), CTimeNanoSeconds: uint64(st.Ctim.Nsec),
		}
		if attr != want {
			t.Errorf("%s: %v\nwant %v", state, attr, want)
		}
		if qid.Path != st.Ino {
			t.Errorf("%s: qid %v, inode %d", state, qid, st.Ino)
		}
		if state == "closed" {
			_, _, err = f.Open(p9.ReadOnly)
			must(t, err)
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999999999}}, 0))
		}
	}
}

func TestQIDVersionFollowsChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "hello")
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	f := walk(t, root, "f")
	first, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	again, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	write(t, dir+"/f", "HELLO!")
	changed, _, _, err := f.GetAttr(p9.AttrMaskAll)
	must(t, err)
	if first != again || first.Version == changed.Version || first.Path != changed.Path || first.Version == 0 {
		t.Errorf("QIDs %v, %v, after a change %v", first, again, changed)
	}
}

func TestOtherFileSystems(t *testing.T) {
	root := mount(t, share.Config{Path: "/", ReadOnly: true})
	first, _, err := root.Walk([]string{"dev"})
	must(t, err)
	dev := walk(t, root, "dev")
	again, _, _, err := dev.GetAttr(p9.AttrMaskAll)
	must(t, err)
	if first[0] != again {
		t.Errorf("/dev is %v and %v", first[0], again)
	}
	null := walk(t, dev, "null")
	_, _, err = null.Open(p9.ReadOnly)
	wantErrno(t, "open /dev/null", err, unix.ENXIO)
	top, _, _, err := root.GetAttr(p9.AttrMaskAll)
	must(t, err)
	var st, devSt unix.Stat_t
	must(t, unix.Stat("/", &st))
	must(t, unix.Stat("/dev", &devSt))
	if top.Path != st.Ino {
		t.Errorf("the root's QID %v is not its inode number %d", top, st.Ino)
	}
	if devSt.Dev != st.Dev && again.Path == devSt.Ino {
		t.Errorf("/dev's QID %v is only its inode number", again)
	}
}

func TestStatFS(t *testing.T) {
	dir := t.TempDir()
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	got, err := root.StatFS()
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if got.Blocks != st.Blocks || got.BlockSize != uint32(st.Bsize) || got.Files != st.Files || got.NameLength != 255 || got.Type != unix.V9FS_MAGIC {
		t.Errorf("%+v, host %+v", got, st)
	}
}

// TestLinkIsNotReadForItsAttributes: to read a link sets its time of last access on the host.
func TestLinkIsNotReadForItsAttributes(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/link"
	must(t, os.Symlink("target", path))
	// With relatime a time of access before that of the last change is set anew, even one in the future.
	times := []unix.Timespec{{Sec: 1960000000}, {Sec: 1970000000}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
	link := walk(t, mount(t, share.Config{Path: dir, ReadOnly: true}), "link")
	_, _, attr, err := link.GetAttr(p9.AttrMaskAll)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	if attr.ATimeSeconds != 1960000000 || st.Atim.Sec != 1960000000 || attr.Size != 6 {
		t.Errorf("access at %d, on the host at %d, size %d", attr.ATimeSeconds, st.Atim.Sec, attr.Size)
	}
}
