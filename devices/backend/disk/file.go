package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

// file is an open image file or block device, locked.
type file struct {
	fd       *sys.FD
	path     string
	size     int64 // bytes, as found
	id       fileID
	isDevice bool
}

// fileID tells files apart.
type fileID struct{ dev, ino uint64 }

// openFile opens and locks the file at path.
func openFile(path string, writes, direct bool) (_ *file, err error) {
	// A FIFO must not make us wait for its other end.
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if writes {
		flags = flags&^unix.O_RDONLY | unix.O_RDWR
	}
	if direct {
		flags |= unix.O_DIRECT
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	device := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	switch {
	case info.IsDir():
		return nil, errors.New("is a folder; a disk is an image file or a block device")
	case !device && !info.Mode().IsRegular():
		return nil, errors.New("is neither a regular file nor a block device")
	}
	if device && writes {
		flags |= unix.O_EXCL // refused while it is mounted (block/bdev.c)
	}
	fd, err := sys.Open(path, flags)
	if err != nil {
		return nil, openError(err, writes, direct)
	}
	f := &file{fd: fd, path: path, isDevice: device}
	if err := f.measure(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	if err := f.lock(writes); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// openError adds what can be done.
func openError(err error, writes, direct bool) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: it is mounted or otherwise in use by this host", err)
	case errors.Is(err, unix.EINVAL) && direct:
		return fmt.Errorf("%w: its file system has no O_DIRECT; leave out direct", err)
	case writes && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)):
		return fmt.Errorf("%w: add ro, or cow to throw changes away", err)
	}
	return err
}

func (f *file) measure() error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd.Int(), &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	f.id = fileID{st.Dev, st.Ino}
	size, err := unix.Seek(f.fd.Int(), 0, io.SeekEnd) // also a device's
	if err != nil {
		return fmt.Errorf("find the size: %w", err)
	}
	f.size = size
	return nil
}

func (f *file) close() error { return f.fd.Close() }

// beside resolves a name in the image as relative to the image's folder.
func (f *file) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(f.path), name)
}

// readSome fills p from off as far as the file goes. It returns io.EOF where it does not go so far.
func (f *file) readSome(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := sys.Retry(func() (int, error) { return unix.Pread(f.fd.Int(), p[done:], off+int64(done)) })
		if err != nil {
			return done, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

// read fills the next n bytes at c. What lies behind the file's end is zero, from end on: an earlier end is an error.
func (f *file) read(c cursor, n, off, end int64) error {
	for n > 0 {
		got, err := vectorIO(unix.SYS_PREADV, f.fd.Int(), c, n, off)
		switch {
		case err != nil:
			return fmt.Errorf("read %s, %d bytes at %d: %w", f.path, n, off, err)
		case got == 0 && off < end:
			return fmt.Errorf("read %s at %d: the file ends before its %d bytes: %w", f.path, off, end, io.ErrUnexpectedEOF)
		case got == 0:
			c.zero(n)
			return nil
		}
		n, off, c = n-got, off+got, c.after(got)
	}
	return nil
}

// write stores the next n bytes at c.
func (f *file) write(c cursor, n, off int64) error {
	for n > 0 {
		put, err := vectorIO(unix.SYS_PWRITEV, f.fd.Int(), c, n, off)
		if err == nil && put == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write %s, %d bytes at %d: %w", f.path, n, off, err)
		}
		n, off, c = n-put, off+put, c.after(put)
	}
	return nil
}

// punch frees a range, which then reads as zeroes. The error wraps EOPNOTSUPP where the host can't.
func (f *file) punch(off, n int64) error {
	return f.allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (f *file) allocate(mode uint32, off, n int64) error {
	_, err := sys.Retry(func() (int, error) { return 0, unix.Fallocate(f.fd.Int(), mode, off, n) })
	if err != nil {
		return fmt.Errorf("fallocate %s, %d bytes at %d: %w", f.path, n, off, err)
	}
	return nil
}

func (f *file) sync() error {
	_, err := sys.Retry(func() (int, error) { return 0, unix.Fdatasync(f.fd.Int()) })
	if err != nil {
		return fmt.Errorf("flush %s: %w", f.path, err)
	}
	return nil
}

// zeroes is what is written where the host can't make zeroes itself.
const zeroChunk = 64 << 10

// writeZeroes writes n zeroes, n being at most what a guest may ask for at once.
func (f *file) writeZeroes(off, n int64) error {
	chunk := [1][]byte{make([]byte, min(n, zeroChunk))}
	for n > 0 {
		part := min(n, zeroChunk)
		if err := f.write(cursor{bufs: chunk[:]}, part, off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}
