package images

import (
	"cmp"
	"context"
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
		if !e.unfinished() {
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
		entries, err := c.entries(kind)
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.Size = folderSize(e.Path)
			f(e)
		}
	}
	return nil
}

// entries returns the entries of a kind without their sizes, unfinished ones included.
func (c *Cache) entries(kind Kind) ([]Entry, error) {
	dir := filepath.Join(c.dir, string(kind))
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(files))
	for _, file := range files {
		key := file.Name()
		entries = append(entries, Entry{Kind: kind, Key: key, Path: filepath.Join(dir, key), LastUse: c.lastUse(kind, key)})
	}
	return entries, nil
}

// unfinished tells what is being made or removed from entries.
func (e *Entry) unfinished() bool { return strings.HasPrefix(e.Key, ".") }

const (
	// unfinishedAge is when a file that a killed process left half-made is taken for one.
	unfinishedAge = 24 * time.Hour
	// recentUse is how long an entry surely stays after its path was returned, so that it can be opened.
	recentUse = 10 * time.Minute
)

// Unused returns the entries that were not used for the given time, 0 for all: what Prune removes.
func (c *Cache) Unused(unused time.Duration) ([]Entry, error) {
	var old []Entry
	limit := time.Now().Add(-unused)
	err := c.walk(func(e Entry) {
		if !e.unfinished() && !e.LastUse.After(limit) {
			old = append(old, e)
		}
	})
	return old, err
}

// Prune removes the entries that were not used for the given time, 0 for all, and
// returns them. A machine that runs from one keeps its open file.
func (c *Cache) Prune(ctx context.Context, unused time.Duration) ([]Entry, error) {
	old, err := c.Unused(unused)
	if err != nil {
		return nil, err
	}
	for i, e := range old {
		if err := c.remove(ctx, e); err != nil {
			return old[:i], err
		}
	}
	for _, kind := range kinds() {
		c.sweep(kind)
	}
	c.sweepLocks(0)
	return old, nil
}

// remove removes an entry.
func (c *Cache) remove(ctx context.Context, e Entry) error {
	unlock, err := c.lock(ctx, e.Kind, e.Key)
	if err != nil {
		return err
	}
	defer unlock()
	return c.discard(e.Kind, e.Key)
}

// trim bounds a kind after an entry was made: the least recently used ones go. What can't be removed now, because
// another process makes it or the file system refuses, is met again by the next one.
func (c *Cache) trim(kind Kind) {
	c.sweepLocks(unfinishedAge)
	if files, err := os.ReadDir(filepath.Join(c.dir, string(kind))); err != nil || len(files) <= kind.keep() {
		return
	}
	entries, err := c.entries(kind)
	if err != nil {
		return
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.unfinished() })
	slices.SortFunc(entries, func(a, b Entry) int { return b.LastUse.Compare(a.LastUse) })
	for _, e := range entries[min(len(entries), kind.keep()):] {
		if kind != KindHash && time.Since(e.LastUse) < recentUse {
			continue
		}
		if unlock, err := c.tryLock(kind, e.Key); err == nil {
			_ = c.discard(kind, e.Key)
			unlock()
		}
	}
	c.sweep(kind)
}

// sweep removes what killed processes have left of a kind, and seals without an entry.
func (c *Cache) sweep(kind Kind) {
	entries, err := c.entries(kind)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.unfinished() && time.Since(e.LastUse) > unfinishedAge {
			os.RemoveAll(e.Path)
		}
	}
	seals, err := os.ReadDir(filepath.Join(c.dir, sealDir, string(kind)))
	if err != nil {
		return
	}
	for _, s := range seals {
		if !strings.HasPrefix(s.Name(), ".") {
			c.sweepSeal(kind, s.Name())
		} else if info, err := s.Info(); err == nil && time.Since(info.ModTime()) > unfinishedAge {
			os.RemoveAll(c.sealPath(kind, s.Name()))
		}
	}
}

func (c *Cache) sweepSeal(kind Kind, key string) {
	if _, err := os.Lstat(c.path(kind, key)); !missing(err) {
		return
	}
	unlock, err := c.tryLock(kind, key)
	if err != nil {
		return // it is just being made
	}
	defer unlock()
	if _, err := os.Lstat(c.path(kind, key)); missing(err) {
		os.RemoveAll(c.sealPath(kind, key))
	}
}
