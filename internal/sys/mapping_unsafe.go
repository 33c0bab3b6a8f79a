package sys

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mapping is memory obtained by mmap, outside the Go heap. It has one owner. Its
// bytes must not be used after Close.
type Mapping struct {
	once  sync.Once
	err   error
	bytes []byte
}

// Map maps n bytes of f from offset off (bytes, page-aligned). prot and flags are mmap's.
func Map(f *FD, off int64, n, prot, flags int) (*Mapping, error) {
	m, err := mapAt(nil, f.Int(), off, n, prot, flags)
	if err != nil {
		return nil, fmt.Errorf("mmap %s, offset %#x, %d bytes: %w", f.Name(), off, n, err)
	}
	return m, nil
}

// MapAligned is Map at an address that is phase modulo align, a power of two of at least a
// page: where a large page begins in what is mapped, one then begins in the address space.
// n and phase are multiples of a page.
func MapAligned(f *FD, off int64, n, prot, flags int, align, phase uintptr) (*Mapping, error) {
	const unused = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	around, err := mapAt(nil, -1, 0, n+int(align), unix.PROT_NONE, unused)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", n+int(align), err)
	}
	skip := int((phase - around.Addr()) & (align - 1))
	m, err := mapAt(unsafe.Pointer(&around.bytes[skip]), f.Int(), off, n, prot, flags|unix.MAP_FIXED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mmap %s, offset %#x, %d bytes: %w", f.Name(), off, n, err), around.Close())
	}
	return m, errors.Join(unmap(around.bytes[:skip]), unmap(around.bytes[skip+n:]))
}

func mapAt(addr unsafe.Pointer, fd int, off int64, n, prot, flags int) (*Mapping, error) {
	p, err := unix.MmapPtr(fd, off, addr, uintptr(n), prot, flags)
	if err != nil {
		return nil, err
	}
	return &Mapping{bytes: unsafe.Slice((*byte)(p), n)}, nil
}

func unmap(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))); err != nil {
		return fmt.Errorf("munmap %d bytes: %w", len(b), err)
	}
	return nil
}

// MapAnonymous maps n bytes of zeroed private memory that is not reserved in swap.
func MapAnonymous(n int) (*Mapping, error) {
	m, err := mapAt(nil, -1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes of anonymous memory: %w", n, err)
	}
	return m, nil
}

// MapHuge maps n bytes of zeroed private memory in 2 MiB pages of the host's pool
// (Documentation/admin-guide/mm/hugetlbpage.rst), all of them reserved. ENOMEM if the pool
// has not enough; n must be a multiple of 2 MiB.
func MapHuge(n int) (*Mapping, error) {
	const hugeTwoMiB = 21 << unix.MAP_HUGE_SHIFT
	m, err := mapAt(nil, -1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|hugeTwoMiB)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes of huge pages: %w", n, err)
	}
	return m, nil
}

// Bytes returns the mapped memory.
func (m *Mapping) Bytes() []byte { return m.bytes }

// Addr returns the host virtual address of the first byte, for kernel structs.
func (m *Mapping) Addr() uintptr { return Addr(m.bytes) }

// Advise applies madvise to the whole mapping.
func (m *Mapping) Advise(advice int) error { return unix.Madvise(m.bytes, advice) }

// Close unmaps the memory. Further calls return the first result.
func (m *Mapping) Close() error {
	m.once.Do(func() {
		m.err, m.bytes = unmap(m.bytes), nil
	})
	return m.err
}

// Addr returns the host virtual address of b's first byte. Only for memory outside
// the Go heap, which does not move.
func Addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Discard gives memory back to the system. b is whole pages of an anonymous mapping, which read as
// zeros afterwards.
func Discard(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) }

// Mincore sets a byte in vec for each page of b, with bit 0 for a page in memory. b
// starts on a page; vec holds at least a byte per page of it.
func Mincore(b, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, Addr(b), uintptr(len(b)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return errno
	}
	return nil
}
