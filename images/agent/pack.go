package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// maybePack packs and does not return where that is what this process was started for.
func maybePack() {
	dir := os.Getenv(agentproto.EnvPack)
	if dir == "" {
		return
	}
	ns, err := strconv.ParseInt(os.Getenv(agentproto.EnvPackSince), 10, 64)
	if err == nil {
		err = pack(os.Stdout, dir, time.Unix(0, ns))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// pack writes the regular files below dir whose content or attributes changed since then. A folder that is not there is
// an empty one. Links and devices stay where they are: they would mean something else elsewhere.
func pack(w io.Writer, dir string, since time.Time) error {
	out := tar.NewWriter(w)
	var unread unreadable
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			unread.add(err)
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return packFile(out, path, name, since, &unread)
	})
	return errors.Join(err, out.Close(), unread.err())
}

// unreadable are files that can't be read. The others are packed all the same.
type unreadable struct {
	n     int
	first error
}

func (u *unreadable) add(err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return // it was never made, or vanished meanwhile
	}
	if u.n++; u.first == nil {
		u.first = err
	}
}

func (u *unreadable) err() error {
	if u.n == 0 {
		return nil
	}
	return fmt.Errorf("%d files could not be read, the first: %w", u.n, u.first)
}

// packBuffer is how much of a file is read before its length is told, in bytes: that of the kernel's files is known at their end.
const packBuffer = 1 << 20

// packFile adds a file. Its length is what can be read, up to packBuffer; that of a longer one is what the file system says.
func packFile(out *tar.Writer, path, name string, since time.Time, unread *unreadable) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		unread.add(&fs.PathError{Op: "stat", Path: path, Err: err})
		return nil
	}
	if time.Unix(st.Ctim.Unix()).Before(since) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		unread.add(err)
		return nil
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, packBuffer))
	if err != nil {
		unread.add(err)
		return nil
	}
	size := int64(len(head))
	if size == packBuffer {
		size = max(size, st.Size)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(st.Mode & 0o777), Size: size}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	return packRest(out, f, path, size-int64(len(head)), unread)
}

// packRest adds n more bytes. A file that grows is cut. Zeroes stand for what one lacks that shrinks, or fails, or the files behind it
// could not be found.
func packRest(out *tar.Writer, f *os.File, path string, n int64, unread *unreadable) error {
	from := &noted{r: f}
	done, err := io.CopyN(out, from, n)
	if done == n || from.err == nil {
		return err
	}
	unread.add(fmt.Errorf("%s: %d bytes are missing: %w", path, n-done, from.err))
	_, err = io.CopyN(out, zeroes{}, n-done)
	return err
}

// noted keeps a reader's error.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(p []byte) (got int, err error) {
	got, n.err = n.r.Read(p)
	return got, n.err
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
