package vfio

import (
	"fmt"
	"io"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// Area is a part of a region, in bytes from the region's start.
type Area struct {
	Offset uint64 `json:"offset"`
	Size   uint64 `json:"size"`
}

// Region is a BAR, the ROM, the configuration space, or something of the driver's own. It
// does not change after the device was opened.
type Region struct {
	device *Device
	index  int
	flags  uint32
	size   uint64
	offset uint64 // in the device's file
	caps   regionCaps
}

func (r *Region) set(info vfio.RegionInfo, caps regionCaps) {
	r.flags, r.size, r.offset, r.caps = info.Flags, info.Size, info.Offset, caps
}

// Index returns the region's number.
func (r *Region) Index() int { return r.index }

// Size returns the region's length in bytes, 0 if there is no such region.
func (r *Region) Size() uint64 { return r.size }

// Readable and Writable report what ReadAt and WriteAt, and mappings, can do.
func (r *Region) Readable() bool { return r.flags&vfio.RegionRead != 0 }

// Writable is described at Readable.
func (r *Region) Writable() bool { return r.flags&vfio.RegionWrite != 0 }

// MSIXMappable reports whether the BAR may be mapped where its MSI-X table is, too. Without
// it, pages that hold the table or the PBA must not be mapped.
func (r *Region) MSIXMappable() bool { return r.caps.msixMappable }

// Type returns type and subtype of a region beyond the standard ones, otherwise 0.
func (r *Region) Type() (kind, subkind uint32) { return r.caps.kind, r.caps.subkind }

// Areas returns what of the region can be mapped, in order: nothing, all of it, or the
// parts that the driver allows.
func (r *Region) Areas() []Area {
	switch {
	case r.size == 0 || r.flags&vfio.RegionMmap == 0:
		return nil
	case r.caps.sparse:
		return r.caps.areas
	}
	return []Area{{0, r.size}}
}

// ReadAt reads len(p) bytes at off. The kernel accesses the device at the widest naturally
// aligned widths, so that 1, 2, 4 or 8 aligned bytes are one access. EIO while the device
// does not decode the region's addresses.
func (r *Region) ReadAt(p []byte, off int64) (int, error) {
	return r.transfer("read", p, off, r.device.file.pread)
}

// WriteAt writes p at off. See ReadAt for widths.
func (r *Region) WriteAt(p []byte, off int64) (int, error) {
	return r.transfer("write", p, off, r.device.file.pwrite)
}

func (r *Region) transfer(verb string, p []byte, off int64, do func([]byte, int64) (int, error)) (int, error) {
	if off < 0 || uint64(off) > r.size || uint64(len(p)) > r.size-uint64(off) {
		return 0, fmt.Errorf("%s %d bytes at %#x of region %d of %s, which has %#x bytes",
			verb, len(p), off, r.index, r.device.node.Name, r.size)
	}
	done := 0
	for done < len(p) {
		n, err := do(p[done:], int64(r.offset)+off+int64(done))
		if err == nil && n <= 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, fmt.Errorf("%s %d bytes at %#x of region %d of %s: %w", verb, len(p), off, r.index, r.device.node.Name, err)
		}
		done += n
	}
	return done, nil
}

// largestPage is that of x86's page tables, in bytes.
const largestPage = 1 << 30

// alignment returns what Mmap aligns a region to: its size, as the device's own address and the
// guest's are, up to the largest page. The kernel then maps large BARs in large pages, for the
// guest too (vfio-pci does from Linux 6.12 on).
func (r *Region) alignment() uint64 {
	align := uint64(unix.Getpagesize())
	for align < largestPage && align<<1 <= r.size {
		align <<= 1
	}
	return align
}

// Mmap maps an area, which lies within one of Areas and begins on a page; its end is rounded
// up to a page. The mapping ends with Device.Close at the latest. Its bytes must not be
// touched by the process: an access while the device does not decode raises SIGBUS.
func (r *Region) Mmap(a Area) (*sys.Mapping, error) {
	d := r.device
	page := uint64(unix.Getpagesize())
	what := fmt.Sprintf("map %#x bytes at %#x of region %d of %s", a.Size, a.Offset, r.index, d.node.Name)
	if a.Size == 0 || a.Offset%page != 0 || !r.mappable(a) {
		return nil, fmt.Errorf("%s: no area that can be mapped", what)
	}
	prot := 0
	if r.Readable() {
		prot |= unix.PROT_READ
	}
	if r.Writable() {
		prot |= unix.PROT_WRITE
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("%s: the device is closed", what)
	}
	m, err := d.file.mmap(int64(r.offset+a.Offset), int((a.Size+page-1)&^(page-1)), prot, r.alignment(), a.Offset)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	d.mappings = append(d.mappings, m)
	return m, nil
}

func (r *Region) mappable(a Area) bool {
	for _, o := range r.Areas() {
		if a.Offset >= o.Offset && a.Offset-o.Offset <= o.Size && a.Size <= o.Size-(a.Offset-o.Offset) {
			return true
		}
	}
	return false
}
