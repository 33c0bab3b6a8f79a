package disk

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

const (
	// cowBlock is the unit in which changes are kept, in bytes: what file systems write in.
	cowBlock = 4096
	// cowGroup is how many blocks one piece of the map covers. The map grows with what is written, 1 bit a block.
	cowGroup = 32768
)

// cow keeps changes in a temporary file without a name, at the offsets that they have in the disk.
type cow struct {
	base  layer
	temp  *file
	bytes int64 // size
	// changed says which blocks are in temp. A bit is set after its block was written.
	changed []atomic.Pointer[cowBits]

	// mu is held for reading by writes of blocks that are whole or changed already, and for writing while
	// a block is copied from base: two writes to parts of one block would lose one otherwise.
	mu    sync.RWMutex
	block [cowBlock]byte // with mu held for writing
}

type cowBits [cowGroup / 64]atomic.Uint64

// newCOW takes base over.
func newCOW(base layer) (Image, error) {
	size := base.size()
	temp, err := newTemp(size)
	if err != nil {
		return nil, errors.Join(err, base.close())
	}
	groups := (size + cowBlock*cowGroup - 1) / (cowBlock * cowGroup)
	return &cow{base: base, temp: temp, bytes: size, changed: make([]atomic.Pointer[cowBits], groups)}, nil
}

// tempDir is where changes go: TMPDIR, else /var/tmp, which unlike /tmp is seldom in memory.
func tempDir() string {
	const onDisk = "/var/tmp"
	if os.Getenv("TMPDIR") == "" && unix.Access(onDisk, unix.W_OK) == nil {
		return onDisk
	}
	return os.TempDir()
}

func newTemp(size int64) (*file, error) {
	dir := tempDir()
	named, err := os.CreateTemp(dir, "stile-disk-")
	if err != nil {
		return nil, fmt.Errorf("a file for changes: %w; name another folder in TMPDIR", err)
	}
	defer named.Close()
	path := named.Name()
	fd, err := sys.Open(path, unix.O_RDWR)
	if err := errors.Join(err, os.Remove(path)); err != nil {
		return nil, fmt.Errorf("a file for changes: %w", err)
	}
	f := &file{fd: fd, path: "(changes in " + dir + ")", size: size}
	if err := unix.Ftruncate(fd.Int(), size); err != nil {
		return nil, errors.Join(fmt.Errorf("a file of %d bytes for changes in %s: %w; name another folder in TMPDIR", size, dir, err), f.close())
	}
	return f, nil
}

func (w *cow) Size() int64    { return w.bytes }
func (w *cow) BlockSize() int { return SectorSize }
func (w *cow) ReadOnly() bool { return false }
func (w *cow) Flush() error   { return nil }
func (w *cow) Close() error   { return errors.Join(w.temp.close(), w.base.close()) }
func (*cow) Resize(int64) error {
	return errors.New("resize: a disk whose changes are thrown away (cow) keeps its size")
}

func (w *cow) isChanged(block int64) bool {
	bits := w.changed[block/cowGroup].Load()
	if bits == nil {
		return false
	}
	i := block % cowGroup
	return bits[i/64].Load()&(1<<(i%64)) != 0
}

// mark says that the blocks are in temp.
func (w *cow) mark(from, to int64) {
	for ; from < to; from++ {
		group := &w.changed[from/cowGroup]
		bits := group.Load()
		if bits == nil {
			group.CompareAndSwap(nil, new(cowBits))
			bits = group.Load()
		}
		i := from % cowGroup
		bits[i/64].Or(1 << (i % 64))
	}
}

// run returns how many of the n bytes at off are in blocks like the first, and whether those are changed.
func (w *cow) run(off, n int64) (int64, bool) {
	first := w.isChanged(off / cowBlock)
	end := off/cowBlock*cowBlock + cowBlock
	for end < off+n && w.isChanged(end/cowBlock) == first {
		end += cowBlock
	}
	return min(end-off, n), first
}

func (w *cow) ReadAt(bufs [][]byte, off int64) error {
	c, n := newCursor(bufs)
	if err := inside(off, n, w.bytes); err != nil {
		return err
	}
	for n > 0 {
		part, changed := w.run(off, n)
		var err error
		if changed {
			err = w.temp.read(c, part, off, w.bytes)
		} else {
			err = w.base.readAt(c, part, off)
		}
		if err != nil {
			return err
		}
		c, n, off = c.after(part), n-part, off+part
	}
	return nil
}

func (w *cow) WriteAt(bufs [][]byte, off int64) error {
	c, n := newCursor(bufs)
	return w.change(off, n, func() error { return w.temp.write(c, n, off) })
}

// change lets write fill the range in temp, once all blocks that the range has parts of are there.
func (w *cow) change(off, n int64, write func() error) error {
	if err := inside(off, n, w.bytes); err != nil || n == 0 {
		return err
	}
	end := off + n
	for _, edge := range [2]int64{off, end} {
		if edge%cowBlock != 0 && edge != w.bytes {
			if err := w.bring(edge / cowBlock); err != nil {
				return err
			}
		}
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if err := write(); err != nil {
		return err
	}
	w.mark(off/cowBlock, (end+cowBlock-1)/cowBlock)
	return nil
}

// bring copies a block from base unless it is changed already.
func (w *cow) bring(block int64) error {
	if w.isChanged(block) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isChanged(block) {
		return nil
	}
	off := block * cowBlock
	n := min(cowBlock, w.bytes-off)
	c := cursor{bufs: [][]byte{w.block[:n]}}
	if err := w.base.readAt(c, n, off); err != nil {
		return err
	}
	if err := w.temp.write(c, n, off); err != nil {
		return err
	}
	w.mark(block, block+1)
	return nil
}

// Discard makes whole blocks zeroes.
func (w *cow) Discard(off, n int64) error {
	if err := inside(off, n, w.bytes); err != nil {
		return err
	}
	from := roundUp(off, cowBlock)
	end := off + n
	if end != w.bytes {
		end &^= cowBlock - 1
	}
	if from >= end {
		return nil
	}
	return w.WriteZeroes(from, end-from, true)
}

func (w *cow) WriteZeroes(off, n int64, _ bool) error {
	return w.change(off, n, func() error {
		err := w.temp.punch(off, n)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return w.temp.writeZeroes(off, n)
		}
		return err
	})
}
