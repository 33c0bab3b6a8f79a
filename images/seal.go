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
	// content is the hash of names, types and contents.
	content string
}

const sealFormat = "1"

func (c *Cache) sealPath(kind Kind, key string) string {
	return filepath.Join(c.dir, sealDir, string(kind), key)
}

func (c *Cache) readSeal(kind Kind, key string) (seal, error) {
	words, err := readRecord(c.sealPath(kind, key))
	if err != nil {
		return seal{}, err
	}
	if len(words) != 3 || words[0] != sealFormat {
		return seal{}, errNoRecord
	}
	return seal{state: words[1], content: words[2]}, nil
}

func (c *Cache) writeSeal(kind Kind, key string, s seal) error {
	return writeRecord(c.sealPath(kind, key), sealFormat, s.state, s.content)
}

// unknownState is no entry's: the contents must be read.
const unknownState = "-"

// reseal notes an entry's state once its contents are known to be right. The entry's lock is held.
func (c *Cache) reseal(kind Kind, key, content string) error {
	time.Sleep(clockStep) // a later change must show in the times
	state, err := stateOf(c.path(kind, key))
	if err != nil {
		return err
	}
	return c.writeSeal(kind, key, seal{state, content})
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
	state, err := stateOf(path)
	if err != nil {
		return damaged(path, err)
	}
	s, err := c.readSeal(kind, key)
	switch {
	case err == nil && s.state == state:
		return nil
	case missing(err) && kind.adopt():
		s.content = "" // as earlier releases left it
	case err != nil:
		return damaged(path, fmt.Errorf("its seal: %w", err))
	}
	time.Sleep(clockStep) // a change after the reading must show in the times
	content, err := contentOf(path)
	if err != nil {
		return damaged(path, err)
	}
	if s.content != "" && s.content != content {
		return damaged(path, errors.New("its contents are not those that were written"))
	}
	c.resealed(kind, key, state, content)
	return nil
}

// damaged hides what err is: fs.ErrNotExist means that there is no entry.
func damaged(path string, err error) error {
	return fmt.Errorf("cache entry %s is %w: %v", path, errDamaged, err)
}

// resealed saves the next one the reading, unless the entry is being made anew.
func (c *Cache) resealed(kind Kind, key, state, content string) {
	unlock, err := c.tryLock(kind, key)
	if err != nil {
		return
	}
	defer unlock()
	if now, err := stateOf(c.path(kind, key)); err == nil && now == state {
		_ = c.writeSeal(kind, key, seal{state, content})
	}
}

// stateOf returns the hash of an entry's state.
func stateOf(path string) (string, error) {
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
