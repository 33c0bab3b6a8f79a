package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"github.com/rogpeppe/go-internal/lockedfile"
	"golang.org/x/sys/unix"
)

// EnvCache names the environment variable that says where the cache is.
const EnvCache = "STILE_CACHE"

// Cache is a folder of files, and of folders, that are made once. An entry appears whole or not at all,
// and a process that wants one that another is making waits for it. Methods may be called concurrently.
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
)

func kinds() []Kind {
	return []Kind{
		KindKernel, KindUnpacked, KindAgent, KindInitramfs, KindUserland, KindHash,
		KindTree, KindSource, KindModule, KindModules, KindPackage, KindLog,
	}
}

const lockDir = "lock"

// Open opens the cache in dir; when dir is empty, in the folder that EnvCache names, or else the user's
// cache folder, or, where that can't be written, one for temporary files.
func Open(dir string) (*Cache, error) {
	if dir == "" {
		dir = os.Getenv(EnvCache)
	}
	if dir != "" {
		c := &Cache{dir: dir}
		if err := c.prepare(); err != nil {
			return nil, fmt.Errorf("cache: %w (%s names another folder)", err, EnvCache)
		}
		return c, nil
	}
	if user, err := os.UserCacheDir(); err == nil {
		c := &Cache{dir: filepath.Join(user, "stile")}
		if c.prepare() == nil {
			return c, nil
		}
	}
	return openTemporary()
}

// openTemporary opens a cache in the folder for temporary files, where others may
// have put anything: it has to be ours alone.
func openTemporary() (*Cache, error) {
	uid := os.Getuid()
	c := &Cache{dir: filepath.Join(os.TempDir(), "stile-"+strconv.Itoa(uid))}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(c.dir, &st); err != nil {
		return nil, fmt.Errorf("cache %s: %w", c.dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != uid || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("cache: %s belongs to somebody else: set %s to a folder of yours", c.dir, EnvCache)
	}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

// prepare makes the folders and checks that they can be written.
func (c *Cache) prepare() error {
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	c.dir = dir
	if err := os.MkdirAll(filepath.Join(dir, lockDir), 0o700); err != nil {
		return err
	}
	for _, kind := range kinds() {
		sub := filepath.Join(dir, string(kind))
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

// File returns the path of an entry, and has build write it when it isn't there. key must be a file
// name: a hash, or a version.
func (c *Cache) File(ctx context.Context, kind Kind, key string, build func(*os.File) error) (string, error) {
	return c.entry(ctx, kind, key, func(path string) error { return writePending(path, build) })
}

// Replace writes an entry whether or not it is there.
func (c *Cache) Replace(ctx context.Context, kind Kind, key string, build func(*os.File) error) (string, error) {
	unlock, err := c.lock(ctx, kind, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := c.path(kind, key)
	if err := writePending(path, build); err != nil {
		return "", err
	}
	return path, nil
}

// Folder is File for an entry that is a folder. build fills an empty one that only it sees; what a
// build that was killed has left is removed by the next one.
func (c *Cache) Folder(ctx context.Context, kind Kind, key string, build func(dir string) error) (string, error) {
	return c.entry(ctx, kind, key, func(path string) error { return fillFolder(path, build) })
}

// Lookup returns the path of an entry that is there.
func (c *Cache) Lookup(kind Kind, key string) (string, bool) {
	path := c.path(kind, key)
	return path, c.touch(path)
}

// Latest returns the path of the entry that was used last among those whose keys start with prefix.
func (c *Cache) Latest(kind Kind, prefix string) (string, bool) {
	paths, err := filepath.Glob(c.path(kind, prefix) + "*") // keys have no special characters
	if err != nil {
		return "", false
	}
	latest, used := "", time.Time{}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(used) {
			latest, used = path, info.ModTime()
		}
	}
	return latest, latest != "" && c.touch(latest)
}

func (c *Cache) path(kind Kind, key string) string { return filepath.Join(c.dir, string(kind), key) }

// entry returns the path of an entry, and calls create under its lock when it isn't there.
func (c *Cache) entry(ctx context.Context, kind Kind, key string, create func(path string) error) (string, error) {
	path := c.path(kind, key)
	if c.touch(path) {
		return path, nil
	}
	unlock, err := c.lock(ctx, kind, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.touch(path) {
		return path, nil // another process has made it meanwhile
	}
	if err := create(path); err != nil {
		return "", err
	}
	return path, nil
}

func writePending(path string, build func(*os.File) error) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer f.Cleanup()
	if err := build(f.File); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("cache %s: %w", path, err)
	}
	return nil
}

// fillFolder is called under the entry's lock, so that the unfinished folder's name need not be a new one.
func fillFolder(path string, build func(dir string) error) (err error) {
	dir := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
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
	if err := os.Rename(dir, path); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
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

// touch tells whether an entry is there, and notes that it was used: by a file's time of access, and by
// a folder's time of change, because looking into a folder counts as access.
func (c *Cache) touch(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	now, changed := time.Now(), time.Time{}
	if info.IsDir() {
		changed = now
	}
	os.Chtimes(path, now, changed) // a cache that can't be written may be read
	return true
}

// lock locks an entry against other makers, in this process and in others.
func (c *Cache) lock(ctx context.Context, kind Kind, key string) (unlock func(), err error) {
	type result struct {
		unlock func()
		err    error
	}
	results := make(chan result, 1)
	mutex := lockedfile.MutexAt(filepath.Join(c.dir, lockDir, string(kind)+"-"+key))
	go func() {
		unlock, err := mutex.Lock()
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

// HashFile returns the hex sha256 of a file. It is remembered by the file's device, inode, size and times, so that a
// big file is read once.
func (c *Cache) HashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%d %d %d %v %v", st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim))
	memo, err := c.File(ctx, KindHash, hex.EncodeToString(id[:]), func(w *os.File) error {
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		_, err := io.WriteString(w, hex.EncodeToString(hash.Sum(nil)))
		return err
	})
	if err != nil {
		return "", err
	}
	hash, err := os.ReadFile(memo)
	if err != nil {
		return "", err
	}
	return string(hash), nil
}
