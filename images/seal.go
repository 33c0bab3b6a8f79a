package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sealDir has a folder for each kind with a seal for each entry: the record by which damage is noticed. A seal's time
// of change is when its entry was last used; the entry itself is never touched, so that its own times tell whether anybody has.
const sealDir = "seal"

// errDamaged is in every error about an entry that is there and can't be used.
var errDamaged = errors.New("damaged")

// seal is what an entry was when it was made.
type seal struct {
	// state is the hash of all that can be known without reading: names, types, sizes and times. While it
	// is the same, so are the contents.
	state string
	// top is the state of the upper folders alone: a kernel, its lists of modules, a makefile.
	top string
	// content is the hash of names, types and contents.
	content string
	// compared is when all of the state was last compared.
	compared time.Time
}

const (
	// topLevels is how many levels of folders are compared at each use. A kernel has 5,000 modules
	// below, its headers 17,000 files.
	topLevels = 4
	allLevels = 1 << 20
	// compareStep is how often the rest is compared, too.
	compareStep = time.Hour
)

const sealFormat = "1"

func (c *Cache) sealPath(kind Kind, key string) string {
	return filepath.Join(c.dir, sealDir, string(kind), key)
}

func (c *Cache) readSeal(kind Kind, key string) (seal, error) {
	words, err := readRecord(c.sealPath(kind, key))
	if err != nil {
		return seal{}, err
	}
	if len(words) != 5 || words[0] != sealFormat {
		return seal{}, errNoRecord
	}
	compared, err := strconv.ParseInt(words[4], 10, 64)
	return seal{state: words[1], top: words[2], content: words[3], compared: time.Unix(compared, 0)}, err
}

func (c *Cache) writeSeal(kind Kind, key string, s seal) error {
	return writeRecord(c.sealPath(kind, key), sealFormat, s.state, s.top, s.content, strconv.FormatInt(s.compared.Unix(), 10))
}

// unknownState is no entry's: the contents must be read.
const unknownState = "-"

// newSeal is the seal of an entry as it is now, but for its contents.
func newSeal(path, content string) (s seal, err error) {
	s.content, s.compared = content, time.Now()
	if s.top, err = stateOf(path, topLevels); err != nil {
		return s, err
	}
	s.state, err = stateOf(path, allLevels)
	return s, err
}

// reseal notes an entry's state once its contents are known to be right. The entry's lock is held.
func (c *Cache) reseal(kind Kind, key, content string) error {
	time.Sleep(clockStep) // a later change must show in the times
	s, err := newSeal(c.path(kind, key), content)
	if err != nil {
		return err
	}
	return c.writeSeal(kind, key, s)
}

// check returns nil for an entry that is as it was made, fs.ErrNotExist for none, and errDamaged otherwise. It reads
// no contents unless a file's times have changed.
func (c *Cache) check(kind Kind, key string) error {
	path := c.path(kind, key)
	info, err := os.Lstat(path)
	switch {
	case missing(err):
		return err
	case err != nil:
		return damaged(path, err)
	case info.IsDir() != kind.isFolder():
		return damaged(path, fmt.Errorf("unexpected %v", info.Mode().Type()))
	}
	known, err := c.readSeal(kind, key)
	switch {
	case missing(err) && kind.adopt():
		known = seal{state: unknownState} // as earlier releases left it
	case err != nil:
		return damaged(path, fmt.Errorf("its seal: %w", err))
	}
	if err := c.compare(kind, key, known); err != nil {
		return damaged(path, err)
	}
	return nil
}

// compare returns an error when an entry is not what its seal says.
func (c *Cache) compare(kind Kind, key string, known seal) error {
	path := c.path(kind, key)
	top, err := stateOf(path, topLevels)
	if err != nil {
		return err
	}
	if top == known.top && (!kind.isFolder() || time.Since(known.compared).Abs() < compareStep) {
		return nil
	}
	now, err := newSeal(path, known.content)
	if err != nil {
		return err
	}
	if now.state == known.state {
		c.resealed(kind, key, now)
		return nil
	}
	time.Sleep(clockStep) // a change after the reading must show in the times
	if now.content, err = contentOf(path); err != nil {
		return err
	}
	if known.content != "" && known.content != now.content {
		return errors.New("its contents are not those that were written")
	}
	c.resealed(kind, key, now)
	return nil
}

// damaged hides what err is: fs.ErrNotExist means that there is no entry.
func damaged(path string, err error) error {
	return fmt.Errorf("cache entry %s is %w: %v", path, errDamaged, err)
}

// resealed saves the next one the work, unless the entry is being made anew.
func (c *Cache) resealed(kind Kind, key string, now seal) {
	unlock, err := c.tryLock(kind, key)
	if err != nil {
		return
	}
	defer unlock()
	if state, err := stateOf(c.path(kind, key), allLevels); err == nil && now.state == state {
		_ = c.writeSeal(kind, key, now)
	}
}

// stateOf returns the hash of the state of an entry's upper levels of folders.
func stateOf(path string, levels int) (string, error) {
	sum := sha256.New()
	var line []byte
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line = append(line[:0], name[len(path):]...)
		line = strconv.AppendUint(append(line, 0), uint64(info.Mode().Type()), 16)
		line = append(line, ' ')
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !d.IsDir() { // a folder's times are those of its use
			for _, n := range []int64{st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec} {
				line = append(strconv.AppendInt(line, n, 10), ' ')
			}
		}
		sum.Write(append(line, '\n'))
		if d.IsDir() && strings.Count(name[len(path):], "/") >= levels {
			return fs.SkipDir
		}
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// contentOf returns the hash of an entry's contents.
func contentOf(path string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %v ", name[len(path):], d.Type())
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			fmt.Fprintf(sum, "%q", target)
			if err != nil {
				return err
			}
		case d.Type().IsRegular():
			if err := addFile(sum, name); err != nil {
				return err
			}
		}
		_, err = sum.Write([]byte("\n"))
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

func addFile(sum hash.Hash, name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	content, err := hashOpen(context.Background(), f)
	fmt.Fprintf(sum, "%t %s", info.Mode()&0o100 != 0, content) // scripts of headers must stay executable
	return err
}
