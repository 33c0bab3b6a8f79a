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

func fillWith(t testing.TB, content string) func(string) error {
	return func(dir string) error {
		writeFile(t, filepath.Join(dir, "sub", "file"), []byte(content))
		return nil
	}
}

// TestFolder has many want the same folder, through several caches.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	var built atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			c, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			path, err := c.Folder(t.Context(), KindTree, "key", func(dir string) error {
				built.Add(1)
				return fillWith(t, "content")(dir)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(filepath.Join(path, "sub", "file")); err != nil || string(content) != "content" {
				t.Errorf("%q, %v", content, err)
			}
		})
	}
	group.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

// TestFolderFails leaves nothing of a build that failed, nor of one that was killed.
func TestFolderFails(t *testing.T) {
	c := openTest(t)
	cause := errors.New("no more")
	_, err := c.Folder(t.Context(), KindTree, "key", func(dir string) error {
		fillWith(t, "half")(dir)
		return cause
	})
	if !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	left, err := os.ReadDir(filepath.Join(c.Dir(), string(KindTree)))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	writeFile(t, filepath.Join(c.Dir(), string(KindTree), ".key", "killed"), nil)
	path, err := c.Folder(t.Context(), KindTree, "key", fillWith(t, "whole"))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(path); err != nil || len(files) != 1 {
		t.Errorf("in the folder: %v, %v", files, err)
	}
}

func TestReplaceAndLookup(t *testing.T) {
	c := openTest(t)
	if path, ok := c.Lookup(KindPackage, "memo"); ok {
		t.Errorf("found %s", path)
	}
	for _, text := range []string{"old", "new"} {
		path, err := c.Replace(t.Context(), KindPackage, "memo", func(w *os.File) error {
			_, err := io.WriteString(w, text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
		if found, ok := c.Lookup(KindPackage, "memo"); !ok || found != path {
			t.Errorf("looked up %q, %v", found, ok)
		}
	}
}

func TestPruneFolder(t *testing.T) {
	c := openTest(t)
	old, err := c.Folder(t.Context(), KindTree, "old", fillWith(t, string(make([]byte, 100<<10))))
	if err != nil {
		t.Fatal(err)
	}
	recent, err := c.Folder(t.Context(), KindTree, "recent", fillWith(t, "x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"old", "recent"} {
		unusedFor(t, c, KindTree, key, 48*time.Hour)
	}
	c.Lookup(KindTree, "recent") // counts as use
	if _, err := c.List(); err != nil {
		t.Fatal(err) // looking at it does not
	}
	removed, err := c.Prune(context.Background(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 1 || removed[0].Path != old || removed[0].Size < 100<<10 {
		t.Errorf("removed %+v", removed)
	}
	left, err := os.ReadDir(filepath.Join(c.Dir(), string(KindTree)))
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(recent) {
		t.Errorf("left %v, %v", left, err)
	}
}
