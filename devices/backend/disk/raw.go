package disk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// raw is a disk whose file has the same bytes.
type raw struct {
	f        *file
	readOnly bool
	size     atomic.Int64 // bytes, whole blocks; the file may end within the last
	fileEnd  atomic.Int64 // bytes that the file must have
	direct   *direct      // nil with the page cache
	noPunch  atomic.Bool  // the host can't free ranges
	noZero   atomic.Bool  // the host can't zero ranges

	// guarded is set where the format was guessed: the guest must not write a header that
	// would make the next guess another one, with a backing file of the guest's choice.
	guarded bool
	guardMu sync.Mutex
	first   []byte // a block
}

// errHeader refuses a guest's header of another format in an image of which only the content said that it is raw.
func errHeader(format string) error {
	return fmt.Errorf("the guest wrote a header of format %s to an image that was only guessed to be raw, which would have it "+
		"read as %[1]s the next time, by stile or QEMU; give it format=raw if that is meant", format)
}

// newRaw takes f over.
func newRaw(f *file, o Options) (Image, error) {
	r := &raw{f: f, readOnly: o.ReadOnly, guarded: o.Format == Detect && !o.ReadOnly}
	if o.Direct {
		d, err := newDirect(f)
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		r.direct = d
	}
	if f.size > MaxSize {
		return nil, errors.Join(fmt.Errorf("%d bytes are more than the %d that are possible", f.size, int64(MaxSize)), r.Close())
	}
	r.fileEnd.Store(f.size)
	r.size.Store(roundUp(f.size, int64(r.BlockSize())))
	if r.guarded {
		r.first = make([]byte, r.BlockSize())
	}
	return r, nil
}

func (r *raw) Size() int64    { return r.size.Load() }
func (r *raw) ReadOnly() bool { return r.readOnly }

func (r *raw) BlockSize() int {
	if r.direct != nil {
		return r.direct.block
	}
	return SectorSize
}

func (r *raw) Close() error {
	if r.direct != nil {
		return errors.Join(r.direct.close(), r.f.close())
	}
	return r.f.close()
}

func (r *raw) ReadAt(bufs [][]byte, off int64) error {
	c, n := newCursor(bufs)
	if err := inside(off, n, r.size.Load()); err != nil {
		return err
	}
	if r.direct != nil {
		return r.direct.read(r.f, c, n, off, r.fileEnd.Load())
	}
	return r.f.read(c, n, off, r.fileEnd.Load())
}

func (r *raw) WriteAt(bufs [][]byte, off int64) error {
	c, n := newCursor(bufs)
	if err := r.writable(off, n); err != nil {
		return err
	}
	if block := int64(len(r.first)); off < block && n > 0 {
		first := min(n, block-off)
		if err := r.writeFirst(c, first, off); err != nil {
			return err
		}
		c, n, off = c.after(first), n-first, off+first
	}
	if r.direct != nil {
		return r.direct.write(r.f, c, n, off)
	}
	return r.f.write(c, n, off)
}

func (r *raw) writable(off, n int64) error {
	if r.readOnly {
		return ErrReadOnly
	}
	return inside(off, n, r.size.Load())
}

// writeFirst writes to the first block, of which it looks at a copy: the guest may change its memory meanwhile.
func (r *raw) writeFirst(c cursor, n, off int64) error {
	r.guardMu.Lock()
	defer r.guardMu.Unlock()
	c.get(r.first[off : off+n])
	if off == 0 {
		if err := r.checkHeader(r.first[:min(n, SectorSize)]); err != nil {
			return err
		}
	}
	copied := [1][]byte{r.first[off : off+n]}
	if r.direct != nil {
		return r.direct.write(r.f, cursor{bufs: copied[:]}, n, off)
	}
	return r.f.write(cursor{bufs: copied[:]}, n, off)
}

// checkHeader refuses the first sector of another format. Where that of a real device says that it is encrypted, nobody takes it
// for anything else.
func (r *raw) checkHeader(head []byte) error {
	if isQCOW2(head) {
		return errHeader(string(QCOW2))
	}
	if found, ok := probe(head); ok && !(found.name == luks && r.f.isDevice) {
		return errHeader(found.name)
	}
	return nil
}

func (r *raw) Flush() error {
	if r.readOnly {
		return nil
	}
	return r.f.sync()
}

func (r *raw) Discard(off, n int64) error {
	if err := r.writable(off, n); err != nil {
		return err
	}
	if n == 0 || r.noPunch.Load() {
		return nil
	}
	err := r.f.punch(off, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		r.noPunch.Store(true) // a discard is a hint
		return nil
	}
	return err
}

func (r *raw) WriteZeroes(off, n int64, mayUnmap bool) error {
	if err := r.writable(off, n); err != nil || n == 0 {
		return err
	}
	if mayUnmap && !r.noPunch.Load() {
		err := r.f.punch(off, n)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		r.noPunch.Store(true)
	}
	if !r.noZero.Load() {
		err := r.f.allocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		r.noZero.Store(true)
	}
	if r.direct != nil {
		return r.direct.writeZeroes(r.f, off, n)
	}
	return r.f.writeZeroes(off, n)
}

// Resize changes the file's size. A device has taken its new size already.
func (r *raw) Resize(size int64) error {
	switch {
	case r.readOnly:
		return errResizeReadOnly
	case size <= 0 || size%int64(r.BlockSize()) != 0 || size > MaxSize:
		return fmt.Errorf("resize to %d bytes: must be a multiple of %d, at most %d", size, r.BlockSize(), int64(MaxSize))
	}
	if r.f.isDevice {
		if err := r.f.measure(); err != nil {
			return err
		}
		if r.f.size < size {
			return fmt.Errorf("resize to %d bytes: the device has %d; make that larger first", size, r.f.size)
		}
	} else if err := unix.Ftruncate(r.f.fd.Int(), size); err != nil {
		return fmt.Errorf("resize to %d bytes: %w", size, err)
	}
	r.fileEnd.Store(size)
	r.size.Store(size)
	return nil
}

// rawLayer is a raw file below others.
type rawLayer struct{ f *file }

func (l *rawLayer) size() int64  { return roundUp(l.f.size, SectorSize) }
func (l *rawLayer) close() error { return l.f.close() }

func (l *rawLayer) readAt(c cursor, n, off int64) error { return l.f.read(c, n, off, l.f.size) }
