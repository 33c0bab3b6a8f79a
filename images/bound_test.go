package images

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/internal/testenv"
)

// settle waits until changes of files show in their times.
func settle() { time.Sleep(2 * clockStep) }

// snapshot lists all of a cache with sizes and times.
func snapshot(t *testing.T, c *Cache) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(c.Dir(), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files[strings.TrimPrefix(name, c.Dir())], err = stateOf(name, allLevels)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// counters reads what this process has read and written by system calls, in bytes; see proc_pid_io(5).
func counters(t *testing.T) (read, written int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch name {
		case "rchar":
			read = n
		case "wchar":
			written = n
		}
	}
	return read, written
}

// testLog is what the go command has a test write about the files that it opens, in bytes.
const testLog = 128 << 10

// TestSecondRunDoesNothing has all the images of a run made, the kernel's own file being in this cache as a download is, and
// counts what a second run reads and writes.
func TestSecondRunDoesNothing(t *testing.T) {
	p := defaultKernelPin()
	kernel, ok := findInModuleCache(p.Version, kernelFile)
	if !ok {
		testenv.Missing(t, "kernel", "the default kernel is not in the Go module cache")
	}
	c := openTest(t)
	program := writeFile(t, filepath.Join(t.TempDir(), "agent"), make([]byte, 16<<20))
	modules := t.TempDir()
	writeFile(t, filepath.Join(modules, "kernel/net/a.ko"), make([]byte, 1<<20))
	settle()
	run := func() {
		t.Helper()
		bzImage, err := c.File(t.Context(), KindKernel, p.Version.Version, func(w *os.File) error { return copyFile(w, kernel) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Unpacked(t.Context(), bzImage, Unpack{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.IndexedModules(t.Context(), modules, "6.1.0-test", false); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Initramfs(t.Context(), &Initramfs{Agent: &Agent{Path: program}}); err != nil {
			t.Fatal(err)
		}
	}
	run()
	settle()
	before := snapshot(t, c)
	read, written := counters(t)
	for range 10 {
		run()
	}
	readAfter, writtenAfter := counters(t)
	if n := readAfter - read; n > 256<<10 { // seals, remembered hashes and the header of the kernel
		t.Errorf("10 runs read %d bytes", n)
	}
	if n := writtenAfter - written; n > testLog {
		t.Errorf("10 runs wrote %d bytes", n)
	}
	if diff := cmp.Diff(before, snapshot(t, c)); diff != "" {
		t.Errorf("10 runs changed the cache: %s", diff)
	}
	// A day later the use is noted, and still nothing is read again.
	for _, kind := range []Kind{KindKernel, KindUnpacked, KindModules, KindInitramfs} {
		entries, err := c.entries(kind)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%s: %v, %v", kind, entries, err)
		}
		unusedFor(t, c, kind, entries[0].Key, 24*time.Hour)
	}
	read, written = counters(t)
	run()
	run()
	readAfter, writtenAfter = counters(t)
	if readAfter-read > 64<<10 || writtenAfter-written > testLog {
		t.Errorf("2 runs a day later read %d and wrote %d bytes", readAfter-read, writtenAfter-written)
	}
	entries, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if time.Since(e.LastUse) > time.Hour {
			t.Errorf("%s %s counts as used at %v", e.Kind, e.Key, e.LastUse)
		}
	}
}

func entriesIn(t *testing.T, c *Cache, parts ...string) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(append([]string{c.Dir()}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestEveryFolderIsBounded makes more entries of each kind than are kept, none of them used lately, beside those of killed
// processes.
func TestEveryFolderIsBounded(t *testing.T) {
	for _, kind := range kinds() {
		if kind == KindHash {
			continue
		}
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := openTest(t)
			past := time.Now().Add(-2 * unfinishedAge)
			old := func(path string) { os.Chtimes(writeFile(t, path, nil), past, past) }
			old(filepath.Join(c.Dir(), lockDir, "killed-key"))
			old(c.path(kind, ".half"))
			old(c.sealPath(kind, "orphan"))
			for i := range kind.keep() + 5 {
				key := fmt.Sprintf("key%d", i)
				var err error
				if kind.isFolder() {
					_, err = c.Folder(t.Context(), kind, key, fillWith(t, key))
				} else {
					_, err = c.Replace(t.Context(), kind, key, func(w *os.File) error {
						_, err := io.WriteString(w, key)
						return err
					})
				}
				if err != nil {
					t.Fatal(err)
				}
				unusedFor(t, c, kind, key, time.Hour-time.Duration(i)*time.Second)
			}
			if n := entriesIn(t, c, string(kind)); n > kind.keep() {
				t.Errorf("%d entries, of which %d are kept", n, kind.keep())
			}
			if n := entriesIn(t, c, sealDir, string(kind)); n > kind.keep() {
				t.Errorf("%d seals, for %d entries", n, kind.keep())
			}
			if n := entriesIn(t, c, lockDir); n > 0 {
				t.Errorf("%d locks", n)
			}
			if _, ok := c.Lookup(kind, "key0"); ok {
				t.Error("the least recently used one is still there")
			}
			if _, ok := c.Lookup(kind, fmt.Sprintf("key%d", kind.keep()+4)); !ok {
				t.Error("the last one is gone")
			}
		})
	}
}

// TestRecentEntriesStay keeps what another process may just be opening.
func TestRecentEntriesStay(t *testing.T) {
	c := openTest(t)
	for i := range KindUserland.keep() + 3 {
		if _, err := c.File(t.Context(), KindUserland, fmt.Sprint(i), func(*os.File) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n := entriesIn(t, c, string(KindUserland)); n != KindUserland.keep()+3 {
		t.Errorf("%d entries are left", n)
	}
}

// TestHashesAreBounded hashes more files than are remembered, among them one that changes.
func TestHashesAreBounded(t *testing.T) {
	c, dir := openTest(t), t.TempDir()
	for i := range KindHash.keep() + 20 {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i)), []byte("x"))
	}
	settle()
	for i := range KindHash.keep() + 20 {
		if _, err := c.HashFile(t.Context(), filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := entriesIn(t, c, string(KindHash)); n > KindHash.keep() {
		t.Errorf("%d hashes are remembered", n)
	}
	changing := filepath.Join(dir, "0")
	count := 0
	for i := range 3 {
		writeFile(t, changing, bytes.Repeat([]byte("y"), i))
		settle()
		if _, err := c.HashFile(t.Context(), changing); err != nil {
			t.Fatal(err)
		}
		if n := entriesIn(t, c, string(KindHash)); count != 0 && n > count {
			t.Errorf("a file that changed added a hash: %d after %d", n, count)
		}
		count = entriesIn(t, c, string(KindHash))
	}
	if n := entriesIn(t, c, lockDir); n > 0 {
		t.Errorf("%d locks", n)
	}
}

// TestLockExcludes has many take the same lock, each of which removes the lock's file.
func TestLockExcludes(t *testing.T) {
	c := openTest(t)
	var holders, most atomic.Int32
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 50 {
				unlock, err := c.lock(context.Background(), KindKernel, "key")
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), holders.Add(1)))
				holders.Add(-1)
				unlock()
			}
		})
	}
	group.Wait()
	if n := most.Load(); n != 1 {
		t.Errorf("%d held the lock at a time", n)
	}
	if n := entriesIn(t, c, lockDir); n > 0 {
		t.Errorf("%d locks are left", n)
	}
	if err := os.Mkdir(c.lockPath(KindKernel, "key"), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := c.tryLock(KindKernel, "key")
	if err != nil {
		t.Fatalf("with a folder in the place of the lock: %v", err)
	}
	unlock()
}

func FuzzParseRecord(f *testing.F) {
	f.Add(formatRecord(sealFormat, unknownState, "content"))
	f.Add(formatRecord())
	f.Add("1 2 3\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		words, err := parseRecord(text)
		if err == nil && formatRecord(words...) != text {
			t.Errorf("%q was read as %q", text, words)
		}
	})
}

// BenchmarkCheck compares a kernel with 4,500 modules, as a distribution has it, with its seal: each run does.
func BenchmarkCheck(b *testing.B) {
	c := openTest(b)
	_, err := c.Folder(b.Context(), KindTree, "key", func(dir string) error {
		for i := range 4500 {
			writeFile(b, filepath.Join(dir, "lib/modules/6.1/kernel", fmt.Sprint(i%300), fmt.Sprint(i)), nil)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := c.check(KindTree, "key"); err != nil {
			b.Fatal(err)
		}
	}
}
