package images

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Entry is a file or a folder in the cache.
type Entry struct {
	Kind Kind
	Key  string
	Path string
	// Size is what the entry takes on the disk, in bytes.
	Size int64
	// LastUse is when the entry was last asked for.
	LastUse time.Time
}

// List returns the entries, the most recently used first.
func (c *Cache) List() ([]Entry, error) {
	var entries []Entry
	err := c.walk(func(e Entry) {
		if !strings.HasPrefix(e.Key, ".") {
			entries = append(entries, e)
		}
	})
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(b.LastUse.Compare(a.LastUse), strings.Compare(a.Path, b.Path))
	})
	return entries, err
}

// blockSize is the unit of st_blocks, in bytes.
const blockSize = 512

// folderSize returns what a folder and all below it take on the disk, in bytes. What can't be read, or is being
// removed, does not count.
func folderSize(dir string) (size int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				size += st.Blocks * blockSize
			}
		}
		return nil
	})
	return size
}

// walk calls f for every entry of every kind, unfinished ones included.
func (c *Cache) walk(f func(Entry)) error {
	for _, kind := range kinds() {
		dir := filepath.Join(c.dir, string(kind))
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, file := range files {
			info, err := file.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			e := Entry{Kind: kind, Key: file.Name(), Path: filepath.Join(dir, file.Name()), Size: info.Size(), LastUse: info.ModTime()}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				e.Size, e.LastUse = st.Blocks*blockSize, time.Unix(st.Atim.Unix())
			}
			if info.IsDir() {
				e.Size, e.LastUse = folderSize(e.Path), info.ModTime()
			}
			f(e)
		}
	}
	return nil
}

// unfinishedAge is when a file that a killed process left half-made is taken for one.
const unfinishedAge = 24 * time.Hour

// Prune removes the entries that were not used for the given time, 0 for all, and
// returns them. A machine that runs from one keeps its open file.
func (c *Cache) Prune(ctx context.Context, unused time.Duration) ([]Entry, error) {
	var old []Entry
	limit := time.Now().Add(-unused)
	err := c.walk(func(e Entry) {
		if strings.HasPrefix(e.Key, ".") {
			if time.Since(e.LastUse) > unfinishedAge {
				os.RemoveAll(e.Path)
			}
			return
		}
		if !e.LastUse.After(limit) {
			old = append(old, e)
		}
	})
	if err != nil {
		return nil, err
	}
	for i, e := range old {
		if err := c.remove(ctx, e); err != nil {
			return old[:i], err
		}
	}
	return old, nil
}

// remove removes an entry. Its lock file stays: one that is removed while a process waits for it would be no lock.
func (c *Cache) remove(ctx context.Context, e Entry) error {
	unlock, err := c.lock(ctx, e.Kind, e.Key)
	if err != nil {
		return err
	}
	defer unlock()
	info, err := os.Lstat(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(e.Path)
	}
	// A folder goes at once for those who look for it; its name is now that of an unfinished one.
	gone := filepath.Join(filepath.Dir(e.Path), "."+e.Key)
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(e.Path, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}
