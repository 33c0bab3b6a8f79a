// Package disk is what stands behind a virtual disk: raw images and block devices, qcow2 images with their backing
// files, and changes that are thrown away.
//
// Data moves between guest memory and files without a copy where the layout allows it. Image files are foreign bytes: every
// field is checked before it is used, tables are cached within a bound, and nothing grows with what a file claims.
//
// An image is locked while it is open, in the way QEMU does it (lock.go): one writer, or any number of readers.
package disk

import (
	"errors"
	"fmt"
	"math"
)

// SectorSize is the unit of virtual disks in bytes.
const SectorSize = 512

// MaxSize bounds a virtual disk, in bytes.
const MaxSize = 64 << 40

// Format is how an image's file is organised.
type Format string

// The formats.
const (
	Detect Format = "" // qcow2 if the file says so, an error if it says that it is another, raw otherwise
	Raw    Format = "raw"
	QCOW2  Format = "qcow2"
)

// Options describe a disk.
type Options struct {
	Path     string // an image file, or a block device of the host
	Format   Format
	ReadOnly bool // no writes
	COW      bool // writes go to a temporary file and are gone at Close; Path is only read
	Direct   bool // past the host's page cache (O_DIRECT); raw only
	// Backing is a file, a block device or a folder that a qcow2 image's backing files may be, or be in; "" for none. Beside the
	// image itself any file may.
	Backing string
}

// Image is an open disk. ReadAt and WriteAt move all bytes or fail; buffers may be guest memory. Ranges beyond
// Size are refused. Methods may be called concurrently, but for Close, which comes last.
//
// Errors wrap the host's errno: unix.ENOSPC, unix.EIO, or ErrReadOnly.
type Image interface {
	Size() int64    // bytes, whole blocks; Resize changes it
	BlockSize() int // bytes, the least unit of transfers: 512 or 4096
	ReadOnly() bool
	ReadAt(bufs [][]byte, off int64) error
	WriteAt(bufs [][]byte, off int64) error
	// Flush returns when what was written survives the host's end. For changes that are thrown away it does nothing.
	Flush() error
	// Discard says that nobody needs the bytes; they read as anything, or as zeroes.
	Discard(off, n int64) error
	// WriteZeroes makes the bytes zeroes; mayUnmap lets it free the space.
	WriteZeroes(off, n int64, mayUnmap bool) error
	// Resize changes the size, to whole blocks. Nobody may be using what a smaller disk lacks.
	Resize(size int64) error
	Close() error
}

// Errors of images.
var (
	ErrReadOnly = errors.New("disk is read-only")
	errRange    = errors.New("beyond the disk's end")

	errResizeReadOnly = fmt.Errorf("resize: %w; only one that the guest can write to gets another size", ErrReadOnly)
)

// Validate reports what is wrong with o without looking at the file.
func (o *Options) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("disk %s: "+format, append([]any{o.Path}, args...)...))
	}
	if o.Path == "" {
		faults = append(faults, errors.New("disk without a path"))
	}
	switch o.Format {
	case Detect, Raw:
	case QCOW2:
		if o.Direct {
			fault("qcow2 images are read through the page cache; leave out direct")
		}
	default:
		fault("unknown format %q: must be raw or qcow2", o.Format)
	}
	if o.Format == Raw && o.Backing != "" {
		fault("raw images have no backing file; leave out backing=")
	}
	if o.ReadOnly && o.COW {
		fault("ro and cow exclude each other")
	}
	if o.COW && o.Direct {
		fault("cow and direct exclude each other: changes go to a temporary file")
	}
	return errors.Join(faults...)
}

// Open opens the disk and locks it. The caller closes it.
func Open(o Options) (Image, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	img, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", o.Path, err)
	}
	return img, nil
}

func open(o Options) (Image, error) {
	writes := !o.ReadOnly && !o.COW
	f, err := openFile(o.Path, writes, o.Direct)
	if err != nil {
		return nil, err
	}
	format := o.Format
	if format == Detect {
		if format, err = detect(f); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	if format == Raw {
		return openRaw(f, o)
	}
	if writes {
		return nil, errors.Join(errors.New("stile does not write to qcow2 images: add cow to throw changes away, or ro, "+
			"or make a raw image with: qemu-img convert -O raw IMAGE NEW"), f.close())
	}
	allowed, err := newChain(o.Backing)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	base, err := openQCOW2(f, allowed)
	if err != nil {
		return nil, err
	}
	return finish(base, o)
}

func openRaw(f *file, o Options) (Image, error) {
	if f.size == 0 {
		return nil, errors.Join(errors.New("the image is empty; give it a size with: truncate -s 1G IMAGE"), f.close())
	}
	if o.COW {
		return finish(&rawLayer{f}, o)
	}
	return newRaw(f, o)
}

// finish puts what o asks for over a layer that is only read. It takes the layer over.
func finish(base layer, o Options) (Image, error) {
	if size := base.size(); size > MaxSize {
		return nil, errors.Join(fmt.Errorf("a disk of %d bytes is more than the %d that are possible", size, int64(MaxSize)), base.close())
	}
	if o.COW {
		return newCOW(base)
	}
	return &readOnly{base}, nil
}

// layer is the content of a disk that is only read. Backing files are layers.
type layer interface {
	size() int64 // bytes, whole sectors
	// readAt fills the next n bytes at c, all of them within size.
	readAt(c cursor, n, off int64) error
	close() error
}

// readOnly is a layer as an Image.
type readOnly struct{ layer }

func (r *readOnly) Size() int64    { return r.size() }
func (r *readOnly) BlockSize() int { return SectorSize }
func (r *readOnly) ReadOnly() bool { return true }
func (r *readOnly) Close() error   { return r.close() }
func (r *readOnly) Flush() error   { return nil }

func (r *readOnly) ReadAt(bufs [][]byte, off int64) error {
	c, n := newCursor(bufs)
	if err := inside(off, n, r.size()); err != nil {
		return err
	}
	return r.readAt(c, n, off)
}

func (*readOnly) WriteAt([][]byte, int64) error        { return ErrReadOnly }
func (*readOnly) Discard(int64, int64) error           { return ErrReadOnly }
func (*readOnly) WriteZeroes(int64, int64, bool) error { return ErrReadOnly }
func (*readOnly) Resize(int64) error                   { return errResizeReadOnly }

// inside checks a range of n bytes against the size.
func inside(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return errRange
	}
	return nil
}

// roundUp rounds to a multiple of unit, a power of two.
func roundUp(n, unit int64) int64 {
	if n > math.MaxInt64-unit {
		return n &^ (unit - 1)
	}
	return (n + unit - 1) &^ (unit - 1)
}
