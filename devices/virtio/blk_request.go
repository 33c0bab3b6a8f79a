package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/devices/virtq"
)

// Requests (5.2.6).
const (
	blkIn          = 0
	blkOut         = 1
	blkFlushType   = 4
	blkGetID       = 8
	blkDiscardType = 11
	blkZeroesType  = 13

	blkHeaderSize = 16 // le32 type, le32 reserved, le64 sector
	blkRangeSize  = 16 // le64 sector, le32 sectors, le32 flags

	blkUnmap = 1 << 0 // flag of a range: write zeroes may free it

	blkOK          = 0
	blkIOErr       = 1
	blkUnsupported = 2

	// blkDataMax is more than a driver asks for that keeps to seg_max and size_max. A longer request is refused, because
	// a reset waits for what is under way.
	blkDataMax = blkSegments * blkSegmentMax
)

// blkQueue is what the goroutine of a queue needs for its requests.
type blkQueue struct {
	dev    *Blk
	handle func(*virtq.Chain) (uint32, error) // made once: a method value is an allocation
	chain  virtq.Chain
	header [blkHeaderSize]byte
	ranges [blkDiscardRanges * blkRangeSize]byte
	data   [][]byte // the buffers of a request, without header and status
}

func (s *blkQueue) init(b *Blk) {
	s.dev, s.handle = b, s.request
	s.data = make([][]byte, 0, blkQueueSize)
}

// request does what a chain asks for. The device decides by bytes where header, data and status are, not by
// descriptors (2.7.4.2). A chain without room for a status can't be answered.
func (s *blkQueue) request(c *virtq.Chain) (uint32, error) {
	status := lastByte(c.Writable())
	if status == nil {
		return 0, fmt.Errorf("disk request without room for its status: %w", virtq.ErrGuest)
	}
	if n, _ := c.Read(s.header[:]); n < blkHeaderSize {
		return 0, fmt.Errorf("disk request with a header of %d bytes: %w", n, virtq.ErrGuest)
	}
	typ, sector := binary.LittleEndian.Uint32(s.header[0:]), binary.LittleEndian.Uint64(s.header[8:])
	data := uint64(0) // bytes written before the status
	switch typ {
	case blkIn:
		*status = s.read(c, sector)
		if *status == blkOK {
			data = c.WritableLen() - 1
		}
	case blkOut:
		*status = s.write(c, sector)
	case blkFlushType:
		*status = s.flush()
	case blkGetID:
		n, _ := writeBefore(c, s.dev.serial[:])
		*status, data = blkOK, uint64(n)
	case blkDiscardType, blkZeroesType:
		*status = s.changeRanges(c, typ)
	default:
		*status = blkUnsupported
	}
	return written(c, data), nil
}

// written is what the driver is told of a chain with n bytes of data and the status: so many bytes are written from its start on
// (2.7.8.2), with the status where it follows them. At most 4 GiB, and refused far below.
func written(c *virtq.Chain, n uint64) uint32 {
	if n == c.WritableLen()-1 {
		n++
	}
	return uint32(n)
}

// lastByte returns the last byte of bufs, nil if there is none.
func lastByte(bufs [][]byte) *byte {
	for i := len(bufs) - 1; i >= 0; i-- {
		if n := len(bufs[i]); n > 0 {
			return &bufs[i][n-1]
		}
	}
	return nil
}

// writeBefore writes p to the chain, but not over the status, its last byte.
func writeBefore(c *virtq.Chain, p []byte) (int, error) {
	return c.Write(p[:min(uint64(len(p)), c.WritableLen()-1)])
}

// cut sets s.data to the n bytes of bufs behind the first skip bytes.
func (s *blkQueue) cut(bufs [][]byte, skip, n uint64) {
	s.data = s.data[:0]
	for _, b := range bufs {
		have := uint64(len(b))
		if skip >= have {
			skip -= have
			continue
		}
		b = b[skip:]
		skip = 0
		b = b[:min(uint64(len(b)), n)]
		if len(b) == 0 {
			return
		}
		n -= uint64(len(b))
		s.data = append(s.data, b)
	}
}

// check tells whether n bytes from sector on are on the disk, in whole blocks.
func (s *blkQueue) check(sector, n uint64) bool {
	size := s.dev.sectors.Load()
	block := uint64(s.dev.image.BlockSize())
	return n%block == 0 && n <= blkDataMax && sector%(block/disk.SectorSize) == 0 &&
		sector <= size && n/disk.SectorSize <= size-sector
}

func (s *blkQueue) read(c *virtq.Chain, sector uint64) byte {
	n := c.WritableLen() - 1
	if !s.check(sector, n) {
		return blkIOErr
	}
	s.cut(c.Writable(), 0, n)
	if err := s.dev.image.ReadAt(s.data, int64(sector*disk.SectorSize)); err != nil {
		s.dev.failed(fmt.Sprintf("read at sector %d", sector), err)
		return blkIOErr
	}
	return blkOK
}

func (s *blkQueue) write(c *virtq.Chain, sector uint64) byte {
	n := c.ReadableLen() - blkHeaderSize
	if s.dev.image.ReadOnly() || !s.check(sector, n) {
		return blkIOErr
	}
	s.cut(c.Readable(), blkHeaderSize, n)
	err := s.dev.image.WriteAt(s.data, int64(sector*disk.SectorSize))
	if err != nil {
		s.dev.failed(fmt.Sprintf("write at sector %d", sector), err)
		return blkIOErr
	}
	return s.through()
}

// through flushes after a change where the driver counts on it.
func (s *blkQueue) through() byte {
	if s.dev.writesThrough() {
		return s.flush()
	}
	return blkOK
}

func (s *blkQueue) flush() byte {
	if err := s.dev.image.Flush(); err != nil {
		s.dev.failed("flush", err)
		return blkIOErr
	}
	return blkOK
}

// changeRanges discards or zeroes. All ranges are checked before the first is touched.
func (s *blkQueue) changeRanges(c *virtq.Chain, typ uint32) byte {
	most, flags, ranges := uint32(blkDiscardMax), uint32(0), blkDiscardRanges
	if typ == blkZeroesType {
		most, flags, ranges = blkZeroesMax, blkUnmap, 1
	}
	n := c.ReadableLen() - blkHeaderSize
	if n == 0 || n%blkRangeSize != 0 || n > uint64(ranges*blkRangeSize) || s.dev.image.ReadOnly() {
		return blkIOErr
	}
	if _, err := c.Read(s.ranges[:n]); err != nil {
		return blkIOErr
	}
	for i := uint64(0); i < n; i += blkRangeSize {
		sector, count, f := s.rangeAt(i)
		switch {
		case f&^flags != 0:
			return blkUnsupported // 5.2.6.2
		case count > most || !s.checkRange(sector, uint64(count)):
			return blkIOErr
		}
	}
	for i := uint64(0); i < n; i += blkRangeSize {
		sector, count, f := s.rangeAt(i)
		if err := s.change(typ, int64(sector), int64(count), f&blkUnmap != 0); err != nil {
			what := "discard"
			if typ == blkZeroesType {
				what = "write of zeroes"
			}
			s.dev.failed(fmt.Sprintf("%s at sector %d", what, sector), err)
			return blkIOErr
		}
	}
	return s.through()
}

func (s *blkQueue) rangeAt(i uint64) (sector uint64, count, flags uint32) {
	le := binary.LittleEndian
	return le.Uint64(s.ranges[i:]), le.Uint32(s.ranges[i+8:]), le.Uint32(s.ranges[i+12:])
}

// checkRange is check for a number of sectors, which may be more than data could have.
func (s *blkQueue) checkRange(sector, count uint64) bool {
	size := s.dev.sectors.Load()
	block := uint64(s.dev.image.BlockSize() / disk.SectorSize)
	return sector%block == 0 && count%block == 0 && sector <= size && count <= size-sector
}

func (s *blkQueue) change(typ uint32, sector, count int64, unmap bool) error {
	off, n := sector*disk.SectorSize, count*disk.SectorSize
	if typ == blkDiscardType {
		return s.dev.image.Discard(off, n)
	}
	return s.dev.image.WriteZeroes(off, n, unmap)
}
