package share_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
)

// list reads the directory with requests of count bytes.
func list(t testing.TB, dir p9.File, count uint32) p9.Dirents {
	t.Helper()
	var all p9.Dirents
	offset := uint64(0)
	for {
		entries, err := dir.Readdir(offset, count)
		must(t, err)
		if len(entries) == 0 {
			return all
		}
		all = append(all, entries...)
		offset = entries[len(entries)-1].Offset
	}
}

func TestReaddir(t *testing.T) {
	const files = 10000
	dir := t.TempDir()
	for i := range files {
		fd, err := unix.Open(fmt.Sprintf("%s/file-%d-%s", dir, i, strings.Repeat("x", i%50)), unix.O_CREAT|unix.O_WRONLY, 0o600)
		must(t, err)
		unix.Close(fd)
	}
	must(t, os.Mkdir(dir+"/sub", 0o755))
	must(t, os.Symlink("x", dir+"/link"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	for _, count := range []uint32{1000, 200 << 10} {
		all := list(t, open(t, root, ""), count)
		seen := make(map[string]p9.Dirent)
		for _, e := range all {
			seen[e.Name] = e
		}
		if len(all) != files+5 || len(seen) != files+5 {
			t.Fatalf("requests of %d bytes: %d entries, %d names, want %d", count, len(all), len(seen), files+5)
		}
		for name, typ := range map[string]p9.QIDType{
			".": unix.DT_DIR, "..": unix.DT_DIR, "sub": unix.DT_DIR, "link": unix.DT_LNK, "fifo": unix.DT_FIFO, "file-0-": unix.DT_REG,
		} {
			if seen[name].Type != typ {
				t.Errorf("%s: type %d, want %d", name, seen[name].Type, typ)
			}
		}
		if seen[".."].QID != seen["."].QID {
			t.Errorf("the parent of the folder shows: %v, want %v", seen[".."], seen["."])
		}
		qid, _, err := root.Walk([]string{"sub"})
		must(t, err)
		if qid[0].Path != seen["sub"].QID.Path {
			t.Errorf("sub: walk %v, readdir %v", qid[0], seen["sub"].QID)
		}
	}
}

func TestReaddirSeeks(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		write(t, fmt.Sprintf("%s/%d", dir, i), "")
	}
	root := open(t, mount(t, share.Config{Path: dir, ReadOnly: true}), "")
	all := list(t, root, 64<<10)
	for _, i := range []int{150, 10, 250, 0} {
		rest, err := root.Readdir(all[i].Offset, 64<<10)
		must(t, err)
		if len(rest) != len(all)-i-1 || rest[0].Name != all[i+1].Name {
			t.Errorf("behind entry %d: %d entries, want %d", i, len(rest), len(all)-i-1)
		}
	}
	again := list(t, root, 512)
	if len(again) != len(all) {
		t.Errorf("from the start again: %d entries, want %d", len(again), len(all))
	}
	_, err := root.Readdir(0, 10)
	wantErrno(t, "no room for an entry", err, unix.EINVAL)
}

// TestManyEntries lists a large directory, each entry of which comes once.
func TestManyEntries(t *testing.T) {
	const entries = 100_000
	// In memory, where there is a place for that: a disk takes half a minute to make them.
	dir, err := os.MkdirTemp("/dev/shm", "stile-")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	for i := range entries {
		must(t, unix.Mknod(fmt.Sprintf("%s/entry-%d", dir, i), unix.S_IFREG|0o600, 0))
	}
	root := mount(t, share.Config{Path: dir, ReadOnly: true})
	_, d, err := root.Walk(nil)
	must(t, err)
	_, _, err = d.Open(p9.ReadOnly)
	must(t, err)
	keep(t, d)
	seen := make(map[string]bool, entries)
	for _, e := range list(t, d, 32<<10) {
		if seen[e.Name] {
			t.Fatalf("%s comes twice", e.Name)
		}
		seen[e.Name] = true
	}
	if len(seen) != entries+2 {
		t.Errorf("%d entries, want %d", len(seen), entries+2)
	}
}
