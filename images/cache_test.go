package images

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func openTest(t testing.TB) *Cache {
	t.Helper()
	c, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeFile(t testing.TB, path string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// unusedFor has an entry look as if it was last used that long ago.
func unusedFor(t testing.TB, c *Cache, kind Kind, key string, age time.Duration) {
	t.Helper()
	past := time.Now().Add(-age)
	if err := os.Chtimes(c.sealPath(kind, key), past, past); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrentBuilders has many want the same entry, through several caches on one folder.
func TestConcurrentBuilders(t *testing.T) {
	dir := t.TempDir()
	var built atomic.Int32
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			c, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			path, err := c.File(t.Context(), KindKernel, "key", func(w *os.File) error {
				built.Add(1)
				_, err := io.WriteString(w, "content")
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != "content" {
				t.Errorf("%q, %v", content, err)
			}
		})
	}
	group.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c := openTest(t)
	wrong := errors.New("wrong")
	_, err := c.File(t.Context(), KindKernel, "key", func(w *os.File) error {
		io.WriteString(w, "half")
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("File: %v", err)
	}
	if files, _ := os.ReadDir(filepath.Join(c.Dir(), string(KindKernel))); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestWaitForBuilderEndsWithContext(t *testing.T) {
	c := openTest(t)
	unlock, err := c.lock(t.Context(), KindKernel, "key")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.File(ctx, KindKernel, "key", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("File: %v", err)
	}
	unlock()
	if _, err := c.File(t.Context(), KindKernel, "key", func(*os.File) error { return nil }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestListAndPrune(t *testing.T) {
	c := openTest(t)
	add := func(key string, age time.Duration) {
		_, err := c.File(t.Context(), KindInitramfs, key, func(w *os.File) error {
			_, err := w.Write(make([]byte, 8192))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		unusedFor(t, c, KindInitramfs, key, age)
	}
	add("old", 10*24*time.Hour)
	add("new", time.Hour)
	unfinished := writeFile(t, filepath.Join(c.Dir(), string(KindInitramfs), ".half"), nil)
	past := time.Now().Add(-2 * unfinishedAge)
	os.Chtimes(unfinished, past, past)

	entries, err := c.List()
	if err != nil || len(entries) != 2 || entries[0].Key != "new" || entries[1].Key != "old" {
		t.Fatalf("List: %+v, %v", entries, err)
	}
	if e := entries[1]; e.Kind != KindInitramfs || e.Size < 8192 || time.Since(e.LastUse) < 9*24*time.Hour {
		t.Errorf("entry: %+v", e)
	}
	removed, err := c.Prune(t.Context(), 24*time.Hour)
	if err != nil || len(removed) != 1 || removed[0].Key != "old" {
		t.Errorf("Prune: %+v, %v", removed, err)
	}
	if _, err := os.Stat(unfinished); err == nil {
		t.Error("the unfinished file is still there")
	}
	if removed, err = c.Prune(t.Context(), 0); err != nil || len(removed) != 1 {
		t.Errorf("Prune all: %+v, %v", removed, err)
	}
}

func TestHashFile(t *testing.T) {
	c := openTest(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "file"), []byte("abc"))
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	for range 2 {
		if hash, err := c.HashFile(t.Context(), path); err != nil || hash != abc {
			t.Errorf("HashFile: %s, %v", hash, err)
		}
	}
	writeFile(t, path, []byte("abcd"))
	if hash, err := c.HashFile(t.Context(), path); err != nil || hash == abc {
		t.Errorf("HashFile of the changed file: %s, %v", hash, err)
	}
}
