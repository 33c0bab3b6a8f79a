package share

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEscapeByRenames lets a process of the host exchange directories of the share with links that lead outside, and move
// them about, while guests walk, open, list, make and remove names below them. Nothing outside may be read or changed.
func TestEscapeByRenames(t *testing.T) {
	for _, r := range []bool{true, false} {
		for _, handles := range []int{1, 64} {
			t.Run(fmt.Sprintf("openat2 %v, %d handles", r, handles), func(t *testing.T) {
				top := t.TempDir()
				dir, outside := top+"/share", top+"/outside"
				for _, d := range []string{dir + "/a/b/c", outside + "/b/c"} {
					if err := os.MkdirAll(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				put(t, dir+"/a/b/c/f", "inside")
				put(t, outside+"/b/c/f", "outside")
				for name, target := range map[string]string{"/evil": outside, "/up": ".."} {
					if err := os.Symlink(target, dir+name); err != nil {
						t.Fatal(err)
					}
				}
				s, err := New(Config{Path: dir, Limits: Limits{Handles: handles}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				s.resolver.openat2 = s.resolver.openat2 && r
				attack(t, dir, func() { intrude(t, s) })
				if got := tree(t, outside); got != "b b/c b/c/f " {
					t.Errorf("outside there is %q", got)
				}
				if b, err := os.ReadFile(outside + "/b/c/f"); string(b) != "outside" {
					t.Errorf("the file outside has %q, %v", b, err)
				}
			})
		}
	}
}

// attack changes the share while work is done.
func attack(t *testing.T, dir string, work func()) {
	var stop atomic.Bool
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for !stop.Load() {
			exchange(dir+"/a", dir+"/evil")
			exchange(dir+"/a", dir+"/evil")
			exchange(dir+"/a/b", dir+"/up")
			exchange(dir+"/a/b", dir+"/up")
			_ = os.Rename(dir+"/a/b/c", dir+"/c")
			_ = os.Rename(dir+"/c", dir+"/a/b/c")
		}
	})
	work()
	stop.Store(true)
	attacker.Wait()
}

func exchange(a, b string) {
	_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// intrude is a guest that looks for what is outside.
func intrude(t *testing.T, s *Share) {
	g := &guest{t: t, Session: s.NewSession(), resp: make([]byte, MaxMessage)}
	defer g.Session.Close()
	g.ok(message(tversion, 0xffff, uint32(512000), "9P2000.L"))
	g.ok(message(tattach, 1, uint32(0), uint32(noFID), "root", "", uint32(0)))
	reached := 0
	for i := range 1500 {
		g.exchange(message(twalk, 1, uint32(0), uint32(1), uint16(3), "a", "b", "c"))
		g.exchange(message(twalk, 1, uint32(1), uint32(2), uint16(1), "f"))
		g.exchange(message(tgetattr, 1, uint32(2), uint64(0)))
		g.exchange(message(tlopen, 1, uint32(2), uint32(unix.O_RDWR)))
		if resp := g.exchange(message(tread, 1, uint32(2), uint64(0), uint32(100))); resp[4] != rlerror {
			reached++
			if n := binary.LittleEndian.Uint32(resp[headerBytes:]); !bytes.Equal(resp[dataBytes:dataBytes+n], []byte("inside")) {
				t.Fatalf("round %d: the guest has read %q", i, resp[dataBytes:])
			}
		}
		g.exchange(message(tmkdir, 1, uint32(1), "new", uint32(0o755), uint32(0)))
		g.exchange(message(tsymlink, 1, uint32(1), "link", "target", uint32(0)))
		g.exchange(message(trenameat, 1, uint32(1), "link", uint32(1), "other"))
		g.exchange(message(tunlinkat, 1, uint32(1), "other", uint32(0)))
		g.exchange(message(tunlinkat, 1, uint32(1), "new", uint32(unix.AT_REMOVEDIR)))
		g.exchange(message(tlcreate, 1, uint32(1), "file", uint32(unix.O_RDWR), uint32(0o644), uint32(0)))
		for _, fid := range []uint32{1, 2} {
			g.exchange(message(tclunk, 1, fid))
		}
	}
	if reached == 0 {
		t.Error("the guest has never reached the file that it may read: this tests nothing")
	}
}

// tree lists what is below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all string
	var list func(string)
	list = func(at string) {
		entries, err := os.ReadDir(dir + "/" + at)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all += at + e.Name() + " "
			if e.IsDir() {
				list(at + e.Name() + "/")
			}
		}
	}
	list("")
	return all
}
