package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A tenth to a half of an unpacked kernel is zeros. They are left out of
// the file, and then out of guest RAM, where reading them would cost a page each.

// holeBlock is the unit in which zeros are looked for, in bytes, aligned in the file.
const holeBlock = 16 << 10

// UnpackFile is [Kernel.Unpack] into an empty file, with holes where the kernel is zero.
func (k *Kernel) UnpackFile(f *os.File) error {
	w := &sparseWriter{f: f}
	if err := k.Unpack(w); err != nil {
		return err
	}
	if err := f.Truncate(w.off); err != nil {
		return fmt.Errorf("kernel %s: setting the size of the unpacked one: %w", k.name, err)
	}
	return nil
}

// sparseWriter writes to an empty file from its start and leaves out blocks of zeros.
type sparseWriter struct {
	f     *os.File
	off   int64
	zeros [holeBlock]byte
}

func (w *sparseWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, holeBlock-int(w.off%holeBlock))
		block := p[done : done+n]
		if !bytes.Equal(block, w.zeros[:n]) {
			if _, err := w.f.WriteAt(block, w.off); err != nil {
				return done, err
			}
		}
		done += n
		w.off += int64(n)
	}
	return done, nil
}

// readSparse fills p, which is zero, from offset off of r, without what r says are
// holes.
func readSparse(r io.ReaderAt, p []byte, off int64) error {
	f, ok := r.(*os.File)
	if !ok {
		return readAt(r, p, off)
	}
	end := off + int64(len(p))
	// A file that has become shorter would pass for a hole.
	if err := readAt(f, p[len(p)-1:], end-1); err != nil {
		return err
	}
	for at := off; at < end; {
		start, stop, err := nextData(f, at, end)
		if err != nil {
			return readAt(f, p[at-off:], at)
		}
		if err := readAt(f, p[start-off:stop-off], start); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// nextData returns the first run of data in [at, end) of f, or an empty one at end. An
// error means that the file system can't tell.
func nextData(f *os.File, at, end int64) (start, stop int64, err error) {
	start, err = f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && start >= end {
		return end, end, nil
	}
	if err != nil {
		return 0, 0, err
	}
	stop, err = f.Seek(start, unix.SEEK_HOLE)
	if err == nil && stop <= start {
		err = errors.ErrUnsupported
	}
	return start, min(stop, end), err
}
