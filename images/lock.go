package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir has a file for each entry that is being made or removed. Who holds the lock removes the file, so that the
// folder is empty at rest; what a killed process leaves is used by the next one, or swept.
const lockDir = "lock"

func (c *Cache) lockPath(kind Kind, key string) string {
	return filepath.Join(c.dir, lockDir, string(kind)+"-"+key)
}

// lock locks an entry against other makers, in this process and in others.
func (c *Cache) lock(ctx context.Context, kind Kind, key string) (unlock func(), err error) {
	type result struct {
		unlock func()
		err    error
	}
	results := make(chan result, 1)
	go func() {
		unlock, err := lockFile(c.lockPath(kind, key), unix.LOCK_EX)
		results <- result{unlock, err}
	}()
	select {
	case r := <-results:
		if r.err != nil {
			return nil, fmt.Errorf("cache: lock %s %s: %w", kind, key, r.err)
		}
		return r.unlock, nil
	case <-ctx.Done():
		go func() {
			if r := <-results; r.err == nil {
				r.unlock()
			}
		}()
		return nil, fmt.Errorf("cache: wait for another process that makes %s %s: %w", kind, key, context.Cause(ctx))
	}
}

// tryLock is lock that fails where it would wait.
func (c *Cache) tryLock(kind Kind, key string) (unlock func(), err error) {
	return lockFile(c.lockPath(kind, key), unix.LOCK_EX|unix.LOCK_NB)
}

// lockFile locks the file that has the name when the lock is had: another holder removes it with its lock.
func lockFile(name string, how int) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, unix.EISDIR) && os.RemoveAll(name) == nil {
			continue // nothing of ours is a folder here
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f, how); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: name, Err: err}
		}
		if hasName(f, name) {
			return func() {
				if hasName(f, name) {
					os.Remove(name)
				}
				f.Close()
			}, nil
		}
		f.Close()
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

func hasName(f *os.File, name string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(ours, named)
}

// sweepLocks removes what killed processes have left for longer than age.
func (c *Cache) sweepLocks(age time.Duration) {
	files, err := os.ReadDir(filepath.Join(c.dir, lockDir))
	if err != nil {
		return
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		name := filepath.Join(c.dir, lockDir, file.Name())
		if unlock, err := lockFile(name, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			unlock()
		}
	}
}
