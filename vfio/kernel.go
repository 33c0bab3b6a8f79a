package vfio

import (
	"encoding/binary"
	"os"

	"github.com/stile-vmm/stile/internal/sys"
	"golang.org/x/sys/unix"
)

// kernel opens files. Tests have a fake one, for errors that no hardware gives.
type kernel interface {
	// open opens path for reading and writing. The error is an *os.PathError.
	open(path string) (file, error)
	// adopt takes ownership of a descriptor that an ioctl returned.
	adopt(fd int, name string) file
	// access tells whether path could be opened for reading and writing.
	access(path string) error
}

// file is an open container, group, device or iommufd.
type file interface {
	// control issues an ioctl with an integer argument, controlBytes with a pointer to arg.
	control(c call, arg uintptr) (int, error)
	controlBytes(c call, arg []byte) (int, error)
	// controlVia puts the address of mem at byte at of arg first.
	controlVia(c call, arg []byte, at int, mem *sys.Mapping) (int, error)
	pread(p []byte, off int64) (int, error)
	pwrite(p []byte, off int64) (int, error)
	// mmap maps n bytes at off, at an address that is phase modulo align.
	mmap(off int64, n, prot int, align, phase uint64) (*sys.Mapping, error)
	Int() int
	Close() error
}

type hostKernel struct{}

func (hostKernel) open(path string) (file, error) {
	fd, err := sys.Open(path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return hostFile{fd}, nil
}

func (hostKernel) adopt(fd int, name string) file { return hostFile{sys.NewFD(fd, name)} }

func (hostKernel) access(path string) error {
	if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return &os.PathError{Op: "access", Path: path, Err: err}
	}
	return nil
}

type hostFile struct{ *sys.FD }

func (f hostFile) control(c call, arg uintptr) (int, error) {
	return sys.Retry(func() (int, error) { return f.Ioctl(c.number, arg) })
}

func (f hostFile) controlBytes(c call, arg []byte) (int, error) {
	return sys.Retry(func() (int, error) { return sys.IoctlBytes(f.FD, c.number, arg) })
}

func (f hostFile) controlVia(c call, arg []byte, at int, mem *sys.Mapping) (int, error) {
	binary.NativeEndian.PutUint64(arg[at:], uint64(mem.Addr()))
	return f.controlBytes(c, arg)
}

func (f hostFile) pread(p []byte, off int64) (int, error) {
	for {
		if n, err := unix.Pread(f.Int(), p, off); err != unix.EINTR {
			return n, err
		}
	}
}

func (f hostFile) pwrite(p []byte, off int64) (int, error) {
	for {
		if n, err := unix.Pwrite(f.Int(), p, off); err != unix.EINTR {
			return n, err
		}
	}
}

func (f hostFile) mmap(off int64, n, prot int, align, phase uint64) (*sys.Mapping, error) {
	return sys.MapAligned(f.FD, off, n, prot, unix.MAP_SHARED, uintptr(align), uintptr(phase))
}
