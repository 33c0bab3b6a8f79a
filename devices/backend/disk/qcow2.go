package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxBackingDepth bounds a chain of backing files.
	maxBackingDepth = 16
	// l2Budget bounds the L2 tables that an image keeps, in bytes, where it has room for two.
	l2Budget = 4 << 20
	// maxL2Tables bounds their number.
	maxL2Tables = 256

	offsetMask     = 0x00fffffffffffe00 // of L1 entries and of L2 entries for plain clusters
	l2Compressed   = 1 << 62
	l2Zero         = 1 << 0
	compressedUnit = 512
)

// qcow2 is a qcow2 image that is only read. Its tables do not change.
type qcow2 struct {
	f       *file
	h       *header
	cluster int64    // bytes
	l1      []uint64 // offsets of L2 tables, 0 for none
	backing layer    // nil for none

	mu     sync.Mutex // guards what follows
	tables tableCache
	unpack *unpacker // nil until a compressed cluster is read
}

// openQCOW2 takes f over. c is what is above the image.
func openQCOW2(f *file, c chain) (_ *qcow2, err error) {
	q := &qcow2{f: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.close())
		}
	}()
	// Whatever the cluster's size: the header with the longest name fits, and so do the extensions of a sane image.
	head := make([]byte, min(f.size, 1<<maxClusterBits))
	n, err := f.readSome(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n >= v2HeaderSize && isQCOW2(head) {
		if bits := binary.BigEndian.Uint32(head[20:]); bits < maxClusterBits {
			n = min(n, 1<<bits)
		}
	}
	if q.h, err = parseHeader(head[:n]); err != nil {
		return nil, err
	}
	q.cluster = 1 << q.h.clusterBits
	if err := q.readL1(); err != nil {
		return nil, err
	}
	q.tables.init(int(q.cluster))
	return q, q.openBacking(c)
}

// readL1 reads the L1 table. It must be in the file, so that a small file can't make us take much memory.
func (q *qcow2) readL1() error {
	size := int64(q.h.l1Entries) * 8
	if q.h.l1Offset > q.f.size || size > q.f.size-q.h.l1Offset {
		return fmt.Errorf("qcow2 header: L1 table of %d bytes at %#x is not in the file of %d bytes", size, q.h.l1Offset, q.f.size)
	}
	data := make([]byte, size)
	if _, err := q.f.readSome(data, q.h.l1Offset); err != nil {
		return fmt.Errorf("read the L1 table: %w", err)
	}
	q.l1 = make([]uint64, q.h.l1Entries)
	for i := range q.l1 {
		q.l1[i] = binary.BigEndian.Uint64(data[8*i:]) & offsetMask
	}
	return nil
}

// openBacking opens the backing file. It is read as the format that the image declares, never as what it looks like:
// a guest may have written a header of its choice into a raw one.
func (q *qcow2) openBacking(c chain) error {
	name := strings.TrimPrefix(q.h.backing, "file:")
	if name == "" {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("backing file %q of %s: %w", name, q.f.path, err) }
	if scheme, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(scheme, "/") {
		return fail(errors.New("only files are read"))
	}
	if len(c.above) >= maxBackingDepth {
		return fail(fmt.Errorf("more than %d images one behind the other", maxBackingDepth))
	}
	f, err := c.backing(q.f, name)
	if err != nil {
		return fail(err)
	}
	c.above = append(c.above, q.f.id)
	for _, id := range c.above {
		if id == f.id {
			return fail(errors.Join(errors.New("the images are each other's backing files"), f.close()))
		}
	}
	switch Format(q.h.backingFormat) {
	case Raw:
		q.backing = &rawLayer{f}
	case QCOW2:
		below, err := openQCOW2(f, c)
		if err != nil {
			return fail(err)
		}
		q.backing = below
	case Detect:
		return fail(errors.Join(fmt.Errorf("the image does not say what format it has; say it with: qemu-img rebase -u -b %s -F raw|qcow2 %s", name, q.f.path), f.close()))
	default:
		return fail(errors.Join(fmt.Errorf("its format is %q; raw and qcow2 are read", q.h.backingFormat), f.close()))
	}
	return nil
}

func (q *qcow2) size() int64 { return q.h.size }

func (q *qcow2) close() error {
	err := q.f.close()
	if q.unpack != nil {
		q.unpack.close()
	}
	if q.backing != nil {
		err = errors.Join(err, q.backing.close())
	}
	return err
}

// extent is where bytes of the disk are.
type extent struct {
	kind   extentKind
	offset int64  // in the file, of plain data
	entry  uint64 // the L2 entry of a compressed cluster
	n      int64  // bytes
}

type extentKind int

const (
	inBacking extentKind = iota
	isZero
	plain
	compressed
)

func (q *qcow2) readAt(c cursor, n, off int64) error {
	for n > 0 {
		e, err := q.find(off, n)
		if err != nil {
			return err
		}
		if err := q.readExtent(c, e, off); err != nil {
			return err
		}
		c, n, off = c.after(e.n), n-e.n, off+e.n
	}
	return nil
}

func (q *qcow2) readExtent(c cursor, e extent, off int64) error {
	switch e.kind {
	case plain:
		return q.f.read(c, e.n, e.offset, 0) // the last cluster need not be there to its end
	case compressed:
		return q.readCompressed(c, e, off)
	case inBacking:
		if q.backing == nil {
			break
		}
		have := max(min(q.backing.size()-off, e.n), 0)
		if have > 0 {
			if err := q.backing.readAt(c, have, off); err != nil {
				return err
			}
		}
		c.after(have).zero(e.n - have)
		return nil
	}
	c.zero(e.n)
	return nil
}

// find returns the extent at off, of at most n bytes.
func (q *qcow2) find(off, n int64) (extent, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, err := q.entry(off)
	if err != nil {
		return e, err
	}
	in := off & (q.cluster - 1)
	e.offset += in
	e.n = min(q.cluster-in, n)
	for e.n < n && e.kind != compressed {
		next, err := q.entry(off + e.n)
		if err != nil || next.kind != e.kind || e.kind == plain && next.offset != e.offset+e.n {
			break // an error is met when it is its turn
		}
		e.n = min(e.n+q.cluster, n)
	}
	return e, nil
}

// entry looks up the cluster that off is in. q.mu is held.
func (q *qcow2) entry(off int64) (extent, error) {
	index := off >> q.h.clusterBits
	perTable := q.cluster / 8
	at := int64(q.l1[index/perTable])
	if at == 0 {
		return extent{}, nil
	}
	if at&(q.cluster-1) != 0 {
		return extent{}, fmt.Errorf("%s: L2 table at %#x, which is no cluster: %w", q.f.path, at, unix.EIO)
	}
	table, err := q.tables.get(q.f, at)
	if err != nil {
		return extent{}, err
	}
	v := binary.BigEndian.Uint64(table[index%perTable*8:])
	e := extent{offset: int64(v & offsetMask)}
	switch {
	case v&l2Compressed != 0:
		return extent{kind: compressed, entry: v}, nil
	case v&l2Zero != 0 && q.h.version == 3:
		return extent{kind: isZero}, nil
	case e.offset == 0:
		return extent{}, nil
	case e.offset&(q.cluster-1) != 0:
		return e, fmt.Errorf("%s: data at %#x, which is no cluster: %w", q.f.path, e.offset, unix.EIO)
	}
	e.kind = plain
	return e, nil
}

// tableCache keeps the L2 tables that were used last.
type tableCache struct {
	size   int // of a table in bytes
	limit  int
	byAt   map[int64]int // offset in the file → index
	tables []cachedTable
	clock  uint64
}

type cachedTable struct {
	at   int64
	used uint64
	data []byte
}

func (t *tableCache) init(size int) {
	t.size = size
	t.limit = min(max(l2Budget/size, 2), maxL2Tables)
	t.byAt = make(map[int64]int)
}

// get returns the table at an offset of the file. It is valid until the next call.
func (t *tableCache) get(f *file, at int64) ([]byte, error) {
	t.clock++
	if i, ok := t.byAt[at]; ok {
		t.tables[i].used = t.clock
		return t.tables[i].data, nil
	}
	i := t.victim()
	slot := &t.tables[i]
	delete(t.byAt, slot.at)
	slot.at = 0
	if _, err := f.readSome(slot.data, at); err != nil {
		return nil, fmt.Errorf("%s: L2 table: %w: %w", f.path, err, unix.EIO)
	}
	slot.at, slot.used = at, t.clock
	t.byAt[at] = i
	return slot.data, nil
}

// victim returns a slot that is new, or has not been used for longest.
func (t *tableCache) victim() int {
	if len(t.tables) < t.limit {
		t.tables = append(t.tables, cachedTable{data: make([]byte, t.size)})
		return len(t.tables) - 1
	}
	oldest := 0
	for i := range t.tables {
		if t.tables[i].used < t.tables[oldest].used {
			oldest = i
		}
	}
	return oldest
}
