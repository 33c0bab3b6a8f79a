package share

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// deepGuest has many fids for one file at the end of a deep chain of folders.
func deepGuest(t testing.TB, depth, fids int) (g *guest, last uint32) {
	t.Helper()
	dir := t.TempDir()
	path := dir
	for range depth {
		path = filepath.Join(path, "d")
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, path+"/f", "content")
	put(t, dir+"/a", "content")
	g = newGuest(t, Config{Path: dir})
	g.walkTo(0, 1)
	for range depth {
		g.walkTo(1, 2, "d")
		g.ok(message(tclunk, 1, uint32(1)))
		g.walkTo(2, 1)
		g.ok(message(tclunk, 1, uint32(2)))
	}
	for i := range fids {
		g.walkTo(1, uint32(10+i), "f")
	}
	return g, 1
}

// TestRenameLooksAtItsName: what a rename costs depends on what has the name, not on fids and their depth.
func TestRenameLooksAtItsName(t *testing.T) {
	const depth, fids = 50, 5000
	g, dir := deepGuest(t, depth, fids)
	if g.nodes > depth+10 {
		t.Errorf("%d nodes for one file in %d folders", g.nodes, depth)
	}
	entries := 0
	for _, list := range g.index {
		entries += len(list)
	}
	if entries != g.nodes-1 || len(g.index[nameKey{g.root.id, "a"}]) != 0 {
		t.Errorf("%d names for %d nodes", entries, g.nodes)
	}
	g.ok(message(trenameat, 1, uint32(0), "a", uint32(0), "b"))
	g.ok(message(trenameat, 1, dir, "f", uint32(0), "moved"))
	for _, fid := range []uint32{10, 10 + fids - 1} {
		n := g.fids[fid].node
		if n.name != "moved" || n.parent != g.root || len(g.index[n.key()]) != 1 {
			t.Errorf("fid %d stands for %q in %v", fid, n.name, n.parent.id)
		}
		g.ok(message(tgetattr, 1, fid, uint64(0x7ff)))
	}
	for i := range fids {
		g.ok(message(tclunk, 1, uint32(10+i)))
	}
	g.ok(message(tclunk, 1, uint32(1)))
	if g.nodes != 1 || len(g.index) != 0 {
		t.Errorf("%d nodes and %d names are left", g.nodes, len(g.index))
	}
}

// TestDepthIsBounded: no fid refers to a file that lies deeper than a request may have to walk up.
func TestDepthIsBounded(t *testing.T) {
	g := newGuest(t, Config{Path: t.TempDir()})
	g.walkTo(0, 1)
	depth := 0
	for ; depth < 2*maxDepth; depth++ {
		if resp := g.exchange(message(tmkdir, 1, uint32(1), "d", uint32(0o755), uint32(0))); resp[4] == rlerror {
			break
		}
		resp := g.exchange(message(twalk, 1, uint32(1), uint32(2), uint16(1), "d"))
		if resp[4] == rlerror {
			break
		}
		g.ok(message(tclunk, 1, uint32(1)))
		g.walkTo(2, 1)
		g.ok(message(tclunk, 1, uint32(2)))
	}
	if depth > maxDepth || depth < maxDepth/2 {
		t.Errorf("folders are %d deep", depth)
	}
	g.fails("rename into the depth", message(trenameat, 1, uint32(0), "d", uint32(1), "x"), unix.ENAMETOOLONG)
}

func BenchmarkRename(b *testing.B) {
	for _, fids := range []int{1, 16 << 10} {
		b.Run(fmt.Sprint(fids), func(b *testing.B) {
			g, _ := deepGuest(b, 50, fids)
			a, c := message(trenameat, 1, uint32(0), "a", uint32(0), "b"), message(trenameat, 1, uint32(0), "b", uint32(0), "a")
			b.ResetTimer()
			for range b.N {
				g.ok(a)
				g.ok(c)
			}
		})
	}
}
