package share

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func benchTree(b *testing.B) *guest {
	dir := b.TempDir()
	if err := os.MkdirAll(dir+"/usr/bin", 0o755); err != nil {
		b.Fatal(err)
	}
	put(b, dir+"/usr/bin/program", strings.Repeat("x", 1<<20))
	for i := range 1000 {
		put(b, fmt.Sprintf("%s/usr/file-%d", dir, i), "")
	}
	g := newGuest(b, Config{Path: dir, ReadOnly: true})
	g.walkTo(0, 1, "usr", "bin")
	return g
}

// run handles requests again and again. None may fail.
func (g *guest) run(b *testing.B, reqs ...[]byte) {
	for _, req := range reqs {
		g.ok(req)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, req := range reqs {
			if resp := g.exchange(req); resp[4] == rlerror {
				b.Fatal("request failed")
			}
		}
	}
}

// What Linux sends for stat(2) of a file that it has not seen.
func BenchmarkWalkGetattrClunk(b *testing.B) {
	g := benchTree(b)
	g.run(b, message(twalk, 1, uint32(1), uint32(2), uint16(1), "program"),
		message(tgetattr, 1, uint32(2), uint64(0x7ff)), message(tclunk, 1, uint32(2)))
}

// What it sends for open(2) and close(2).
func BenchmarkWalkOpenClunk(b *testing.B) {
	g := benchTree(b)
	g.walkTo(1, 3, "program")
	g.run(b, message(twalk, 1, uint32(3), uint32(2), uint16(0)),
		message(tlopen, 1, uint32(2), uint32(0)), message(tclunk, 1, uint32(2)))
}

func BenchmarkGetattr(b *testing.B) {
	benchTree(b).run(b, message(tgetattr, 1, uint32(1), uint64(0x7ff)))
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []uint32{4 << 10, 128 << 10, 500 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := benchTree(b)
			g.walkTo(1, 2, "program")
			g.ok(message(tlopen, 1, uint32(2), uint32(0)))
			b.SetBytes(int64(size))
			g.run(b, message(tread, 1, uint32(2), uint64(4096), size))
		})
	}
}

// 1000 entries.
func BenchmarkReaddir(b *testing.B) {
	g := benchTree(b)
	g.walkTo(0, 2, "usr")
	g.ok(message(tlopen, 1, uint32(2), uint32(0)))
	g.run(b, message(treaddir, 1, uint32(2), uint64(0), uint32(512000)))
}
