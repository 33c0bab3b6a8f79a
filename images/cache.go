package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// EnvCache names the environment variable that says where the cache is.
const EnvCache = "STILE_CACHE"

// Cache is a folder of files, and of folders, that are made once. An entry appears whole or not at all,
// and a process that wants one that another is making waits for it. An entry that is not as it was made any more
// counts as not there. Of each kind the most recently used entries are kept. Methods may be called concurrently.
type Cache struct {
	dir string
}

// Kind is a sort of cache entries, and the name of their folder.
type Kind string

// The kinds of entries.
const (
	KindKernel    Kind = "kernel"    // bzImages that were downloaded
	KindUnpacked  Kind = "unpacked"  // kernels unpacked from bzImages
	KindAgent     Kind = "agent"     // agents built with the Go tool
	KindInitramfs Kind = "initramfs" // initramfs
	KindUserland  Kind = "userland"  // userlands built with the Go tool
	KindHash      Kind = "hash"      // hashes of files, by their identity
	KindTree      Kind = "kernels"   // folders: a kernel with its modules, from a package or built here
	KindSource    Kind = "source"    // kernel sources, packed
	KindModule    Kind = "module"    // stile's own kernel module, built for a kernel
	KindModules   Kind = "modules"   // folders: a kernel's modules as modprobe wants them
	KindPackage   Kind = "package"   // which package a kernel's version stood for when it was last asked
	KindLog       Kind = "log"       // logs of builds that failed
	KindSpeed     Kind = "speed"     // what this host's KVM was measured to be, by what that depends on
)

func kinds() []Kind {
	return []Kind{
		KindKernel, KindUnpacked, KindAgent, KindInitramfs, KindUserland, KindHash,
		KindTree, KindSource, KindModule, KindModules, KindPackage, KindLog, KindSpeed,
	}
}

// isFolder tells kinds whose entries are folders from those whose entries are files.
func (k Kind) isFolder() bool { return k == KindTree || k == KindModules }

// adopt tells kinds whose entries are taken as they are when an earlier release, which did not seal them, has left them:
// to make them takes minutes or a network.
func (k Kind) adopt() bool {
	return k == KindTree || k == KindSource || k == KindUserland || k == KindKernel
}

// keep is how many entries of a kind are kept when another is made.
func (k Kind) keep() int {
	switch k {
	case KindHash:
		return 256 // a few bytes each
	case KindPackage:
		return 64 // a line each
	case KindInitramfs:
		return 48 // 15 MB each, one for each program that is an agent
	case KindKernel, KindUserland, KindSource:
		return 8
	}
	return 16
}

// prepare makes the folders and checks that they can be written.
func (c *Cache) prepare() error {
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	c.dir = dir
	folders := []string{lockDir}
	for _, kind := range kinds() {
		folders = append(folders, string(kind), filepath.Join(sealDir, string(kind)))
	}
	for _, name := range folders {
		sub := filepath.Join(dir, name)
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return err
		}
		if err := unix.Access(sub, unix.W_OK|unix.X_OK); err != nil {
			return &fs.PathError{Op: "write", Path: sub, Err: err}
		}
	}
	return nil
}

// Dir returns the cache's folder.
func (c *Cache) Dir() string { return c.dir }

// File returns the path of an entry, and has build write it when it isn't there or is damaged. key must be a file
// name: a hash, or a version.
func (c *Cache) File(ctx context.Context, kind Kind, key string, build func(*os.File) error) (string, error) {
	return c.entry(ctx, kind, key, func() error { return c.writeFile(kind, key, build) })
}

// Replace writes an entry whether or not it is there.
func (c *Cache) Replace(ctx context.Context, kind Kind, key string, build func(*os.File) error) (string, error) {
	unlock, err := c.lock(ctx, kind, key)
	if err != nil {
		return "", err
	}
	err = c.explain(c.writeFile(kind, key, build))
	unlock()
	if err != nil {
		return "", err
	}
	c.trim(kind)
	return c.path(kind, key), nil
}

// Folder is File for an entry that is a folder. build fills an empty one that only it sees; what a
// build that was killed has left is removed by the next one.
func (c *Cache) Folder(ctx context.Context, kind Kind, key string, build func(dir string) error) (string, error) {
	return c.entry(ctx, kind, key, func() error { return c.fillFolder(kind, key, build) })
}

// Lookup returns the path of an entry that is there, undamaged.
func (c *Cache) Lookup(kind Kind, key string) (string, bool) {
	err := c.check(kind, key)
	if err != nil && !missing(err) {
		err = c.checkLocked(kind, key)
	}
	if err != nil {
		return "", false
	}
	touch(c.sealPath(kind, key))
	return c.path(kind, key), true
}

// replaceTime is more than it takes to replace an entry that was built.
const replaceTime = 2 * time.Second

// checkLocked is check for an entry that may be being replaced.
func (c *Cache) checkLocked(kind Kind, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), replaceTime)
	defer cancel()
	unlock, err := c.lock(ctx, kind, key)
	if err != nil {
		return err
	}
	defer unlock()
	return c.check(kind, key)
}

// Latest returns the path of the entry that was used last among the undamaged ones whose keys start with prefix.
func (c *Cache) Latest(kind Kind, prefix string) (string, bool) {
	paths, err := filepath.Glob(c.path(kind, prefix) + "*") // keys have no special characters
	if err != nil {
		return "", false
	}
	used := make(map[string]time.Time, len(paths))
	for _, path := range paths {
		used[path] = c.lastUse(kind, filepath.Base(path))
	}
	slices.SortFunc(paths, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, path := range paths {
		if path, ok := c.Lookup(kind, filepath.Base(path)); ok {
			return path, true
		}
	}
	return "", false
}

func (c *Cache) path(kind Kind, key string) string { return filepath.Join(c.dir, string(kind), key) }

// entry returns the path of an entry, and calls create under its lock when it isn't there or is damaged.
func (c *Cache) entry(ctx context.Context, kind Kind, key string, create func() error) (string, error) {
	path := c.path(kind, key)
	if c.check(kind, key) == nil {
		touch(c.sealPath(kind, key))
		return path, nil
	}
	if made, err := c.make(ctx, kind, key, create); err != nil || !made {
		return path, c.explain(err)
	}
	c.trim(kind)
	return path, nil
}

// make calls create under the entry's lock, unless another process has made it meanwhile.
func (c *Cache) make(ctx context.Context, kind Kind, key string, create func() error) (made bool, err error) {
	unlock, err := c.lock(ctx, kind, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	damage := c.check(kind, key)
	if damage == nil {
		touch(c.sealPath(kind, key))
		return false, nil
	}
	if missing(damage) {
		return true, create()
	}
	if err := c.discard(kind, key); err != nil {
		return false, fmt.Errorf("%w; it can't be removed: %w; %s", damage, err, remedy)
	}
	if err := create(); err != nil {
		return false, fmt.Errorf("%w (needed because %w)", err, damage)
	}
	return true, nil
}

// remedy is for caches in which stile can't help itself.
const remedy = "run `stile image prune --all`, or set " + EnvCache + " to another folder"

// explain adds a remedy to the errors of a file system that takes no more.
func (c *Cache) explain(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: the disk of the cache %s is full: run `stile image prune --all`, or set %s to a folder on a larger disk",
			err, c.dir, EnvCache)
	}
	return err
}

// discard takes an entry away at once for those who look for it: its name is now that of an unfinished one.
func (c *Cache) discard(kind Kind, key string) error {
	path := c.path(kind, key)
	gone := c.path(kind, "."+key)
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(path, gone); err != nil && !missing(err) {
		return err
	}
	return errors.Join(os.RemoveAll(gone), os.RemoveAll(c.sealPath(kind, key)))
}

// writeFile makes an entry that is a file. Its lock is held.
func (c *Cache) writeFile(kind Kind, key string, build func(*os.File) error) error {
	path := c.path(kind, key)
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer f.Cleanup()
	if err := build(f.File); err != nil {
		return err
	}
	return c.publish(kind, key, f.Name(), func() error {
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		return f.CloseAtomicallyReplace()
	})
}

// fillFolder makes an entry that is a folder. Its lock is held, so that the unfinished folder's name need not be a new one.
func (c *Cache) fillFolder(kind Kind, key string, build func(dir string) error) (err error) {
	dir := c.path(kind, "."+key)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cache: remove what an earlier run left: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	if err := build(dir); err != nil {
		return err
	}
	if err := syncFolder(dir); err != nil {
		return fmt.Errorf("cache: sync %s: %w", dir, err)
	}
	return c.publish(kind, key, dir, func() error { return os.Rename(dir, c.path(kind, key)) })
}

// publish seals what was made at path before rename gives it its name: at no time is there an entry without.
func (c *Cache) publish(kind Kind, key, path string, rename func() error) error {
	content, err := contentOf(path)
	if err == nil {
		err = c.writeSeal(kind, key, seal{state: unknownState, top: unknownState, content: content})
	}
	if err == nil {
		err = rename()
	}
	if err == nil {
		err = c.reseal(kind, key, content)
	}
	if err != nil {
		return fmt.Errorf("cache %s: %w", c.path(kind, key), err)
	}
	return nil
}

// Scratch makes a folder for temporary files of a kind's builds, which only those can change who can change the cache. The
// caller removes it; what a killed process leaves is swept.
func (c *Cache) Scratch(kind Kind) (string, error) {
	return os.MkdirTemp(filepath.Join(c.dir, string(kind)), ".build-")
}

// syncFolder has the file system write what it holds back, so that a crash leaves no folder
// with a good name and empty files.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// useStep is how exactly the time of the last use is known: a second run soon after writes nothing.
const useStep = time.Minute

// touch notes that an entry was used, by the time of its seal or record. A cache that can't be written may be read.
func touch(path string) {
	if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()).Abs() > useStep {
		os.Chtimes(path, time.Time{}, time.Now())
	}
}

// lastUse is the time that touch notes: of a record itself, and of anything else by its seal.
func (c *Cache) lastUse(kind Kind, key string) time.Time {
	path := c.sealPath(kind, key)
	if kind == KindHash {
		path = c.path(kind, key)
	}
	info, err := os.Lstat(path)
	if err != nil {
		info, err = os.Lstat(c.path(kind, key)) // an unfinished one
	}
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
