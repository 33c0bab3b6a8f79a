package share

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

const statMaskAll = 0x3fff // P9_STATS_ALL, which v9fs asks for in stat(2)

// mode returns the permissions that a Tgetattr with this mask is answered with.
func (g *guest) mode(id uint32, mask uint64) os.FileMode {
	g.t.Helper()
	d := g.ok(message(tgetattr, 3, id, mask))
	d.u64()
	d.take(13)
	return os.FileMode(d.u32()) & os.ModePerm
}

// A lookup is a walk and a request for attributes, in one system call of the guest: the host is asked once. All that follows is
// fresh, also within that time.
func TestLookupAsksOnce(t *testing.T) {
	for name, test := range map[string]struct {
		between func(g *guest, change func())
		want    os.FileMode
	}{
		"lookup": {func(_ *guest, change func()) { change() }, 0o600},
		"lookup, then a second one": {func(g *guest, change func()) {
			g.mode(1, lookupMask)
			change()
		}, 0o640},
		"stat": {func(g *guest, change func()) {
			change()
			if got := g.mode(1, statMaskAll); got != 0o640 {
				t.Errorf("stat(2): mode %o, want 640", got)
			}
		}, 0o640},
		"another request first": {func(g *guest, change func()) {
			g.ok(message(tstatfs, 4, uint32(1)))
			change()
		}, 0o640},
		"another walk first": {func(g *guest, change func()) {
			g.walkTo(0, 2, "other")
			change()
			g.ok(message(tclunk, 4, uint32(2)))
		}, 0o640},
		"another file's lookup": {func(g *guest, change func()) {
			change()
			g.walkTo(0, 2, "file")
			if got := g.mode(2, lookupMask); got != 0o640 {
				t.Errorf("a new walk: mode %o, want 640", got)
			}
			g.ok(message(tclunk, 4, uint32(2)))
		}, 0o640},
		"a clone": {func(g *guest, change func()) {
			g.walkTo(1, 2)
			change()
			if got := g.mode(2, lookupMask); got != 0o640 {
				t.Errorf("a clone: mode %o, want 640", got)
			}
			g.ok(message(tclunk, 4, uint32(2)))
		}, 0o640},
		"late": {func(_ *guest, change func()) {
			change()
			time.Sleep(walkedFor + 50*time.Millisecond)
		}, 0o640},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			for _, path := range []string{file, filepath.Join(dir, "other")} {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := newGuest(t, Config{Path: dir})
			g.walkTo(0, 1, "file")
			test.between(g, func() {
				if err := os.Chmod(file, 0o640); err != nil {
					t.Fatal(err)
				}
			})
			if got := g.mode(1, lookupMask); got != test.want {
				t.Errorf("mode %o, want %o", got, test.want)
			}
		})
	}
}

// A change that ends while a walk is under way is seen by the request behind the walk.
func TestLookupBesideAChange(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Config{Path: dir})
	g.walkTo(0, 1, "file")
	f, err := g.get(1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.put(f)
	epoch := g.forgetWalked() // the walk begins,
	if err := statFD(g.root.fd, &g.call.st); err != nil {
		t.Fatal(err)
	}
	g.ok(message(tstatfs, 4, uint32(1))) // another request begins and ends,
	g.keepWalked(&g.call, f, epoch)      // and then the walk
	if g.takeWalked(&g.call, f, lookupMask) {
		t.Error("the lookup got attributes from before the other request's end")
	}
}
