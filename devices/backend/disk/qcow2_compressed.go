package disk

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	// unpackedBudget bounds the unpacked clusters that an image keeps, in bytes, where it has room for one.
	unpackedBudget = 1 << 20
	maxUnpacked    = 16
	// zstdWindow bounds a decoder's memory, in bytes: a cluster has at most 2 MiB.
	zstdWindow = 8 << 20
)

// unpacker unpacks clusters and keeps the last ones.
type unpacker struct {
	inflate io.Reader // a flate.Resetter
	zstd    *zstd.Decoder
	packed  []byte
	source  bytes.Reader
	kept    []unpacked
	next    int // of kept, to be replaced
}

type unpacked struct {
	entry uint64 // the L2 entry; 0 for none
	data  []byte
}

func newUnpacker(h *header) (*unpacker, error) {
	cluster := 1 << h.clusterBits
	u := &unpacker{
		// The length counts from the sector that the data starts in, and has clusterBits-8 bits.
		packed: make([]byte, compressedUnit<<(h.clusterBits-8)),
		kept:   make([]unpacked, min(max(unpackedBudget/cluster, 1), maxUnpacked)),
	}
	if !h.zstd {
		u.inflate = flate.NewReader(&u.source)
		return u, nil
	}
	var err error
	u.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true))
	return u, err
}

func (u *unpacker) close() {
	if u.zstd != nil {
		u.zstd.Close()
	}
}

// readCompressed copies part of a compressed cluster.
func (q *qcow2) readCompressed(c cursor, e extent, off int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unpack == nil {
		u, err := newUnpacker(q.h)
		if err != nil {
			return err
		}
		q.unpack = u
	}
	data, err := q.unpack.get(q, e.entry)
	if err != nil {
		return fmt.Errorf("%s: unpack the cluster at %#x of the disk: %w: %w", q.f.path, off, err, unix.EIO)
	}
	in := off & (q.cluster - 1)
	c.put(data[in : in+e.n])
	return nil
}

// get returns an unpacked cluster, which is valid until the next call.
func (u *unpacker) get(q *qcow2, entry uint64) ([]byte, error) {
	for i := range u.kept {
		if u.kept[i].entry == entry {
			return u.kept[i].data, nil
		}
	}
	slot := &u.kept[u.next]
	u.next = (u.next + 1) % len(u.kept)
	slot.entry = 0
	if slot.data == nil {
		slot.data = make([]byte, q.cluster)
	}
	packed, err := u.read(q, entry)
	if err != nil {
		return nil, err
	}
	if err := u.expand(slot.data, packed); err != nil {
		return nil, err
	}
	slot.entry = entry
	return slot.data, nil
}

// read reads what a compressed cluster's descriptor points to.
func (u *unpacker) read(q *qcow2, entry uint64) ([]byte, error) {
	shift := 62 - (q.h.clusterBits - 8)
	offset := int64(entry & (1<<shift - 1) & (1<<56 - 1))
	sectors := int64(entry>>shift) & (1<<(q.h.clusterBits-8) - 1)
	size := (sectors+1)*compressedUnit - offset%compressedUnit
	n, err := q.f.readSome(u.packed[:size], offset)
	if err != nil && !errors.Is(err, io.EOF) { // the last sector need not be there to its end
		return nil, err
	}
	return u.packed[:n], nil
}

// expand fills dst. What follows in packed is padding.
func (u *unpacker) expand(dst, packed []byte) error {
	u.source.Reset(packed)
	from := u.inflate
	if u.zstd != nil {
		if err := u.zstd.Reset(&u.source); err != nil {
			return err
		}
		from = u.zstd
	} else if err := u.inflate.(flate.Resetter).Reset(&u.source, nil); err != nil {
		return err
	}
	_, err := io.ReadFull(from, dst)
	return err
}
