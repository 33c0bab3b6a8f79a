package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Format is the kind of a kernel image.
type Format int

const (
	// ELF is a vmlinux, or another 64-bit ELF kernel.
	ELF Format = iota + 1
	// BzImage is a Linux/x86 boot executable with a compressed payload.
	BzImage
)

func (f Format) String() string {
	switch f {
	case ELF:
		return "ELF"
	case BzImage:
		return "bzImage"
	}
	return fmt.Sprintf("Format(%d)", int(f))
}

// Kernel is a kernel image whose headers are read and checked. The image itself stays
// in its file until [Load] or [Kernel.Unpack]. Its methods may be called concurrently,
// Close last.
type Kernel struct {
	name   string
	src    io.ReaderAt
	size   int64 // bytes
	closer io.Closer
	elf    *elfImage // exactly one of elf and bz is set
	bz     *bzImage
}

// Open opens the kernel image at path. The caller closes it.
func Open(path string) (*Kernel, error) {
	f, size, err := openFile("kernel", path)
	if err != nil {
		return nil, err
	}
	k, err := NewKernel(path, f, size)
	if err != nil {
		f.Close()
		return nil, err
	}
	k.closer = f
	return k, nil
}

// NewKernel reads the headers of the kernel image in the first size bytes of r. The
// name stands in errors only. The caller keeps r, which must stay readable.
func NewKernel(name string, r io.ReaderAt, size int64) (*Kernel, error) {
	k := &Kernel{name: name, src: r, size: size}
	if err := k.parse(); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	return k, nil
}

func (k *Kernel) parse() error {
	if k.size <= 0 {
		return errEmpty
	}
	head, err := readHead(k.src, k.size)
	if err != nil {
		return err
	}
	switch {
	case isELF(head):
		k.elf, err = parseELF(k.src, k.size)
	case isBzImage(head):
		k.bz, err = parseBzImage(k.src, k.size)
	default:
		return notAKernel(head)
	}
	return err
}

// Close closes the file that Open opened. It may be called more than once.
func (k *Kernel) Close() error {
	if k.closer == nil {
		return nil
	}
	c := k.closer
	k.closer = nil
	return c.Close()
}

// Name returns the name that errors use, the path where Open was given one.
func (k *Kernel) Name() string { return k.name }

// Size returns the bytes of the image.
func (k *Kernel) Size() int64 { return k.size }

// Format returns the kind of the image.
func (k *Kernel) Format() Format {
	if k.bz != nil {
		return BzImage
	}
	return ELF
}

// Segments returns what of an ELF kernel goes where, in the order of the file; nil for
// a bzImage. The slice is the caller's.
func (k *Kernel) Segments() []Segment {
	if k.elf == nil {
		return nil
	}
	return append([]Segment(nil), k.elf.segments...)
}

// PVH reports whether the kernel has a PVH entry point.
func (k *Kernel) PVH() bool { return k.elf != nil && k.elf.pvhEntry != 0 }

// Linux reports whether the kernel is known to be Linux: a bzImage is, and an ELF
// kernel with a note of Linux.
func (k *Kernel) Linux() bool { return k.bz != nil || k.elf.linux }

// End returns the guest-physical address behind the memory that the kernel uses until
// it manages memory itself, so the least RAM it can start in, in bytes.
func (k *Kernel) End() uint64 {
	if k.bz != nil {
		return k.bz.loadAddr() + uint64(k.bz.initSize)
	}
	return k.elf.end()
}

var errEmpty = errors.New("the file is empty")

// openFile opens a regular, non-empty file. What names its role in errors.
func openFile(what, path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("%s %s: %w", what, path, describeOpen(err))
	}
	st, err := f.Stat()
	if err == nil {
		err = checkFile(st)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s %s: %w", what, path, err)
	}
	return f, st.Size(), nil
}

func checkFile(st os.FileInfo) error {
	switch {
	case st.IsDir():
		return errors.New("is a directory: name the file itself")
	case !st.Mode().IsRegular():
		return errors.New("is not a regular file: copy it into one first")
	case st.Size() == 0:
		return errEmpty
	}
	return nil
}

// describeOpen replaces the PathError, whose operation and path the caller names.
func describeOpen(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: check the path", os.ErrNotExist)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: make it readable for this user (distributions keep kernels in /boot readable for root only)", os.ErrPermission)
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// readAt fills p from offset off. A file that ends earlier is an error.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF || err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at offset %#x: %w", len(p), off, err)
}
