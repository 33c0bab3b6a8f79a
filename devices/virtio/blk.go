package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/backend/disk"
)

const (
	blkClass = 0x018000 // mass storage, other

	// Features (5.2.3).
	blkSizeMax     = 1 << 1
	blkSegMax      = 1 << 2
	blkReadOnly    = 1 << 5
	blkBlkSize     = 1 << 6
	blkFlush       = 1 << 9
	blkTopology    = 1 << 10
	blkConfigWCE   = 1 << 11
	blkMQ          = 1 << 12
	blkDiscard     = 1 << 13
	blkWriteZeroes = 1 << 14

	// Configuration (5.2.4), byte offsets.
	blkConfigWriteback = 32
	blkConfigSize      = 60

	blkQueueSize = 256
	// blkSegments is how many buffers a request may have: the queue's, less header and status.
	blkSegments = blkQueueSize - 2
	// blkSegmentMax bounds one of them, in bytes.
	blkSegmentMax = 1 << 20
	// blkPhysical is the physical block as a power of two of the logical one of 512 bytes: what changes are
	// kept in, and what file systems write in.
	blkPhysical = 3
	// Linux asks for so many ranges in one discard at most.
	blkDiscardRanges = 32
	// blkDiscardMax and blkZeroesMax bound the sectors of a range. Zeroes may have to be written.
	blkDiscardMax = 1 << 22
	blkZeroesMax  = 1 << 16

	// MaxBlkQueues is how many queues a disk can have.
	MaxBlkQueues = 4
	// MaxSerial is the longest serial number of a disk, in bytes (5.2.6: VIRTIO_BLK_ID_BYTES).
	MaxSerial = 20
)

// BlkOptions describe a disk.
type BlkOptions struct {
	Image  disk.Image // stays the caller's, and must outlive the device
	Serial string     // at most MaxSerial bytes
	Queues int        // 1 to MaxBlkQueues; one for each vCPU is best
	// Notice is told what the user should know: I/O errors, not more often than every few seconds. It may
	// be called concurrently and must not block. Nil ignores it.
	Notice func(text string)
}

// Blk is a virtio disk (5.2). Each queue's goroutine does its requests one after the other, by system calls from guest
// memory to the image and back.
type Blk struct {
	image   disk.Image
	serial  [MaxSerial]byte
	queues  []blkQueue
	notices notices

	sectors   atomic.Uint64 // capacity in units of 512 bytes
	writeback atomic.Bool   // as the driver set it, where it may
	// flushEach makes each write wait until it is on the disk: the driver can't flush, or chose so.
	flush     bool // negotiated; valid while active
	configWCE bool

	resizing sync.Mutex // image and capacity change together
}

// NewBlk makes a disk.
func NewBlk(o BlkOptions) (*Blk, error) {
	switch {
	case len(o.Serial) > MaxSerial:
		return nil, fmt.Errorf("serial number %q has more than %d bytes", o.Serial, MaxSerial)
	case o.Queues < 1 || o.Queues > MaxBlkQueues:
		return nil, fmt.Errorf("%d queues: a disk has 1 to %d", o.Queues, MaxBlkQueues)
	}
	b := &Blk{image: o.Image, queues: make([]blkQueue, o.Queues), notices: notices{tell: o.Notice}}
	copy(b.serial[:], o.Serial)
	b.sectors.Store(uint64(o.Image.Size()) / disk.SectorSize)
	b.writeback.Store(true)
	for i := range b.queues {
		b.queues[i].init(b)
	}
	return b, nil
}

// ErrShrinks refuses to make a disk smaller.
var ErrShrinks = errors.New("what is behind the new end would be lost")

// Size returns the disk's size in bytes.
func (b *Blk) Size() int64 { return int64(b.sectors.Load()) * disk.SectorSize }

// Resize changes the size of image and disk to size bytes, and tells the driver. Only with shrink it makes the disk smaller:
// the driver may be using its end.
func (b *Blk) Resize(t *Transport, size int64, shrink bool) error {
	b.resizing.Lock()
	defer b.resizing.Unlock()
	if size < b.Size() && !shrink && !b.image.ReadOnly() {
		return fmt.Errorf("resize from %d to %d bytes: %w", b.Size(), size, ErrShrinks)
	}
	if err := b.image.Resize(size); err != nil {
		return err
	}
	return t.ChangeConfig(func() { b.sectors.Store(uint64(size) / disk.SectorSize) })
}

// Info implements Device.
func (b *Blk) Info() Info {
	features := uint64(blkSizeMax | blkSegMax | blkBlkSize | blkFlush | blkTopology | blkConfigWCE)
	if b.image.ReadOnly() {
		features |= blkReadOnly
	} else {
		features |= blkDiscard | blkWriteZeroes
	}
	if len(b.queues) > 1 {
		features |= blkMQ
	}
	info := Info{Type: TypeBlock, Class: blkClass, Features: features, ConfigSize: blkConfigSize}
	for range b.queues {
		info.QueueSizes = append(info.QueueSizes, blkQueueSize)
	}
	return info
}

// ReadConfig implements Device.
func (b *Blk) ReadConfig(off int, p []byte) {
	var c [blkConfigSize]byte
	le := binary.LittleEndian
	blockSectors := uint32(b.image.BlockSize() / disk.SectorSize)
	le.PutUint64(c[0:], b.sectors.Load())
	le.PutUint32(c[8:], blkSegmentMax)
	le.PutUint32(c[12:], blkSegments)
	le.PutUint32(c[20:], uint32(b.image.BlockSize()))
	if blockSectors == 1 {
		c[24] = blkPhysical
	}
	le.PutUint16(c[26:], 1) // min_io_size, in blocks
	if b.writeback.Load() {
		c[blkConfigWriteback] = 1
	}
	le.PutUint16(c[34:], uint16(len(b.queues)))
	if !b.image.ReadOnly() {
		le.PutUint32(c[36:], blkDiscardMax)
		le.PutUint32(c[40:], blkDiscardRanges)
		le.PutUint32(c[44:], blockSectors) // discard_sector_alignment
		le.PutUint32(c[48:], blkZeroesMax)
		le.PutUint32(c[52:], 1) // ranges of a write-zeroes
		c[56] = 1               // write_zeroes_may_unmap
	}
	copy(p, c[off:])
}

// WriteConfig implements Device: the driver may choose the cache's mode (5.2.5.1).
func (b *Blk) WriteConfig(off int, p []byte) {
	if i := blkConfigWriteback - off; i >= 0 && i < len(p) {
		b.writeback.Store(p[i] != 0)
	}
}

// Activate implements Device.
func (b *Blk) Activate(a *Activation) error {
	b.flush, b.configWCE = a.Features&blkFlush != 0, a.Features&blkConfigWCE != 0
	if b.configWCE && !b.flush {
		b.writeback.Store(false) // 5.2.5.2
	}
	return nil
}

// writesThrough reports whether a write must be on the disk when it is answered: the driver can't flush (5.2.6.2),
// or wants it so.
func (b *Blk) writesThrough() bool { return !b.flush || b.configWCE && !b.writeback.Load() }

// Serve implements Device.
func (b *Blk) Serve(q *Queue) error {
	s := &b.queues[q.Index()]
	return q.Drain(&s.chain, s.handle)
}

// Reset implements Device.
func (b *Blk) Reset() { b.writeback.Store(true) }

// failed tells the user of an I/O error.
func (b *Blk) failed(what string, err error) {
	if !errors.Is(err, disk.ErrReadOnly) { // the guest's own fault
		b.notices.say(func() string { return fmt.Sprintf("the guest's %s failed: %v", what, err) })
	}
}
