package share

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// remoteGuest is a guest of a folder that counts as one of 9P.
func remoteGuest(t *testing.T, cfg Config) *guest {
	g := newGuest(t, cfg)
	g.share.remote = true
	return g
}

// What is asked about a file of a remote folder after the walk goes to the descriptor that the walk has opened, not to the name.
func TestRemoteFilesKeepDescriptors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := remoteGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "file")
	if g.handles != 1 {
		t.Errorf("%d descriptors after a walk, want 1", g.handles)
	}
	if err := os.Rename(file, file+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file+".moved", 0o640); err != nil {
		t.Fatal(err)
	}
	if got := g.mode(1, statMaskAll); got != 0o640 {
		t.Errorf("mode %o, want 640", got)
	}
	g.ok(message(tclunk, 4, uint32(1)))
	if g.handles != 0 {
		t.Errorf("%d descriptors after the clunk, want 0", g.handles)
	}
}

// A walk finds what has the name now, also while another fid of the old file is there.
func TestRemoteNameMeansAnotherFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	put := func(mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file+".new", nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	put(0o600)
	g := remoteGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "file")
	put(0o640)
	g.walkTo(0, 2, "file")
	if got := g.mode(2, statMaskAll); got != 0o640 {
		t.Errorf("the new file: mode %o, want 640", got)
	}
	if got := g.mode(1, statMaskAll); got != 0o600 {
		t.Errorf("the old file: mode %o, want 600", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.fails("walk to a name that is gone", message(twalk, 4, uint32(0), uint32(3), uint16(1), "file"), unix.ENOENT)
}

// Walks over and over to the same file, by several fids, and more files than descriptors: nothing is left, which newGuest checks.
func TestRemoteDescriptorsAreBounded(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := remoteGuest(t, Config{Path: dir, Limits: Limits{Handles: 3}})
	id := uint32(1)
	for range 3 {
		for _, name := range names {
			g.walkTo(0, id, name)
			if got := g.mode(id, lookupMask); got != 0o600 {
				t.Errorf("%s: mode %o", name, got)
			}
			id++
		}
	}
	if g.handles > 3 {
		t.Errorf("%d descriptors, of 3", g.handles)
	}
	for ; id > 1; id-- {
		g.ok(message(tclunk, 4, id-1))
	}
}

func TestMountType(t *testing.T) {
	const mounts = `22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
41 28 0:30 / /tmp/a\040b rw,relatime shared:5 master:1 - 9p hostrw0 rw,access=any,trans=virtio
42 28 8:1 / / rw,relatime - ext4 /dev/sda1 rw

43 -
`
	for id, want := range map[string]string{"41": "9p", "42": "ext4", "4": "", "43": "", "": ""} {
		if got := mountType(mounts, id); got != want {
			t.Errorf("mount %q: type %q, want %q", id, got, want)
		}
	}
	if got := mountID("pos:\t0\nflags:\t012000000\nmnt_id:\t41\nino:\t7\n"); got != "41" {
		t.Errorf("mount ID %q, want 41", got)
	}
	// The same for real: procfs has a mount of its own.
	f, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	real, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got := mountType(string(real), mountID(string(info))); got != "proc" {
		t.Errorf("/proc: type %q", got)
	}
}
