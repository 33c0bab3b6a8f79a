package disk

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

// bounceSize is the buffer for what the host can't transfer directly, in bytes.
const bounceSize = 256 << 10

// direct is I/O past the page cache. What does not lie as the host wants it goes through one buffer.
type direct struct {
	mem, block int // what addresses, and offsets and lengths, must be multiples of; powers of two

	mu     sync.Mutex // guards the buffer
	buffer *sys.Mapping
}

func newDirect(f *file) (*direct, error) {
	d := &direct{mem: unix.Getpagesize(), block: unix.Getpagesize()}
	var st unix.Statx_t
	err := unix.Statx(f.fd.Int(), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 { // since Linux 6.1
		if st.Dio_offset_align == 0 {
			return nil, errors.New("its file system has no O_DIRECT for this file; leave out direct")
		}
		d.mem, d.block = max(int(st.Dio_mem_align), 1), max(int(st.Dio_offset_align), SectorSize)
	}
	if d.block > unix.Getpagesize() || d.block&(d.block-1) != 0 {
		return nil, fmt.Errorf("O_DIRECT needs units of %d bytes, which a virtual disk can't have; leave out direct", d.block)
	}
	if f.size%int64(d.block) != 0 {
		return nil, fmt.Errorf("its %d bytes are not a multiple of the %d that O_DIRECT needs; leave out direct", f.size, d.block)
	}
	d.buffer, err = sys.MapAnonymous(bounceSize)
	return d, err
}

func (d *direct) close() error { return d.buffer.Close() }

func (d *direct) read(f *file, c cursor, n, off, end int64) error {
	if aligned(c, n, d.mem, d.block) {
		return f.read(c, n, off, end)
	}
	return d.bounce(c, n, off, func(part cursor, c cursor, n, off int64) error {
		if err := f.read(part, n, off, end); err != nil {
			return err
		}
		c.put(part.next(n))
		return nil
	})
}

func (d *direct) write(f *file, c cursor, n, off int64) error {
	if aligned(c, n, d.mem, d.block) {
		return f.write(c, n, off)
	}
	return d.bounce(c, n, off, func(part cursor, c cursor, n, off int64) error {
		c.get(part.next(n))
		return f.write(part, n, off)
	})
}

// bounce calls move for pieces that fit into the buffer.
func (d *direct) bounce(c cursor, n, off int64, move func(part, c cursor, n, off int64) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	part := cursor{bufs: [][]byte{d.buffer.Bytes()}}
	for n > 0 {
		size := min(n, bounceSize)
		if err := move(part, c, size, off); err != nil {
			return err
		}
		c, n, off = c.after(size), n-size, off+size
	}
	return nil
}

func (d *direct) writeZeroes(f *file, off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.buffer.Bytes())
	part := cursor{bufs: [][]byte{d.buffer.Bytes()}}
	for n > 0 {
		size := min(n, bounceSize)
		if err := f.write(part, size, off); err != nil {
			return err
		}
		n, off = n-size, off+size
	}
	return nil
}
