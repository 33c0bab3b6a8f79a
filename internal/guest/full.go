package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
)

// FullDiskError says which disk is full.
type FullDiskError struct {
	Err error
	// Where names the disk, and what to do.
	Where string
}

// Error returns cause and remedy in one line.
func (e *FullDiskError) Error() string { return e.Err.Error() + ": " + e.Where }

// Unwrap returns what failed.
func (e *FullDiskError) Unwrap() error { return e.Err }

// ExplainFull adds to an error of a full disk which disk that is, and for stile's cache what to do. Other errors it returns
// as they are.
func ExplainFull(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) || errors.As(err, new(*FullDiskError)) {
		return err
	}
	cache, openErr := images.Open("")
	path := failedPath(err)
	if path == "" && openErr == nil {
		path = cache.Dir()
	}
	if path == "" {
		return err
	}
	mount, free, ok := diskOf(path)
	if !ok {
		return err
	}
	where := fmt.Sprintf("%d MiB are free on the file system at %s", free>>20, mount)
	if openErr == nil && (path == cache.Dir() || strings.HasPrefix(path, cache.Dir()+"/")) {
		where += fmt.Sprintf(", which holds stile's cache %s: make room there (stile image prune --all, stile lab prune), or name a folder on another disk in %s",
			cache.Dir(), images.EnvCache)
	}
	return &FullDiskError{err, where}
}

// failedPath returns the absolute path that an error is about, "" for none.
func failedPath(err error) string {
	var path string
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		path = p.Path
	}
	if !filepath.IsAbs(path) {
		return ""
	}
	return path
}

// diskOf returns the root of the file system that a path is on, as far as it is there, and the bytes that are free on it.
func diskOf(path string) (mount string, free uint64, ok bool) {
	var st unix.Stat_t
	for unix.Stat(path, &st) != nil {
		if path == "/" {
			return "", 0, false
		}
		path = filepath.Dir(path)
	}
	for path != "/" {
		var above unix.Stat_t
		if unix.Stat(filepath.Dir(path), &above) != nil || above.Dev != st.Dev {
			break
		}
		path = filepath.Dir(path)
	}
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return "", 0, false
	}
	return path, fs.Bavail * uint64(fs.Bsize), true
}
