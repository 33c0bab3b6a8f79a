package boot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	mxz "github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// ErrUnsupported is returned for a payload that cannot be unpacked on the host. The
// bzImage can still be loaded as it is: it unpacks itself in the guest.
var ErrUnsupported = errors.New("payload format is not supported on the host")

// maxWindow bounds the memory that a decompressor may take for its window, in bytes.
// Kernels are packed with windows of up to 128 MiB (zstd -22 --ultra).
const maxWindow = 128 << 20

// opener starts to decompress, with at most window bytes for the format's window. The
// function it returns ends that.
type opener func(r io.Reader, window int) (io.Reader, func(), error)

// codec is a compression format of kernel payloads.
type codec struct {
	name  string
	magic string
	open  opener // nil: not supported
}

func codecs() []codec {
	return []codec{
		{"gzip", "\x1f\x8b", openGzip},
		{"xz", "\xfd7zXZ\x00", openXZ},
		{"zstd", "\x28\xb5\x2f\xfd", openZstd},
		{"lz4", "\x02\x21\x4c\x18", openLZ4},
		{"bzip2", "BZh", openBzip2},
		{"lzo", "\x89LZO", nil},
		{"lzma", "\x5d\x00\x00", openLZMA},
		{"none", "\x7fELF", openStored},
	}
}

// maxIdleReads is how often in a row a decompressor may return nothing.
const maxIdleReads = 100

// payloadMagic is how much of a payload tells its format.
const payloadMagic = 6

func (k *Kernel) codec() (codec, error) {
	if k.bz == nil {
		return codec{}, fmt.Errorf("kernel %s: an ELF file has nothing to unpack", k.name)
	}
	var head [payloadMagic]byte
	n := min(int64(len(head)), k.bz.payloadSize)
	if err := readAt(k.src, head[:n], k.bz.payload); err != nil {
		return codec{}, fmt.Errorf("kernel %s: %w", k.name, err)
	}
	for _, c := range codecs() {
		if bytes.HasPrefix(head[:n], []byte(c.magic)) {
			return c, nil
		}
	}
	return codec{}, fmt.Errorf("kernel %s: payload begins with % x: %w", k.name, head[:n], ErrUnsupported)
}

// Compression returns the format of a bzImage's payload ("zstd"), "" where it is unknown
// or the kernel is an ELF file.
func (k *Kernel) Compression() string {
	c, err := k.codec()
	if err != nil {
		return ""
	}
	return c.name
}

// UnpackedSize returns the bytes that a bzImage says to unpack to, 0 for an ELF file.
func (k *Kernel) UnpackedSize() int64 {
	if k.bz == nil {
		return 0
	}
	return int64(k.bz.unpackedSize)
}

// Unpack writes the ELF vmlinux inside a bzImage to w, front to back; [Kernel.UnpackFile]
// makes a smaller file of it. Behind the ELF
// file, relocations may follow, which a kernel at its linked address does not need.
//
// It takes up to 300 MiB of memory, as much as the window that the payload was packed
// with needs: call it in a process that ends afterwards. [ErrUnsupported] for a format
// that only the kernel itself unpacks (LZO), or an unknown one. On other errors, what
// was written is incomplete.
func (k *Kernel) Unpack(w io.Writer) error {
	c, err := k.codec()
	if err != nil {
		return err
	}
	if c.open == nil {
		return fmt.Errorf("kernel %s: %s payload: %w", k.name, c.name, ErrUnsupported)
	}
	if err := k.unpack(c, w, maxWindow); err != nil {
		return fmt.Errorf("kernel %s: unpacking its %s payload: %w", k.name, c.name, err)
	}
	return nil
}

func (k *Kernel) unpack(c codec, w io.Writer, window int) error {
	size := int64(k.bz.unpackedSize)
	if size > maxUnpacked {
		return fmt.Errorf("it says to unpack to %d bytes, more than the %d allowed: the file is damaged", size, maxUnpacked)
	}
	n := k.bz.payloadSize
	if c.name == "gzip" {
		n += sizeTrailer // gzip's own
	}
	packed := bufio.NewReaderSize(io.NewSectionReader(k.src, k.bz.payload, n), 64<<10)
	r, done, err := c.open(packed, window)
	if err != nil {
		return damaged(err)
	}
	defer done()
	return copyExact(w, r, size)
}

// copyExact copies size bytes and checks that r has no more. What w refuses is told
// apart from what r has wrong.
func copyExact(w io.Writer, r io.Reader, size int64) error {
	buf := make([]byte, 256<<10)
	left, idle := size, 0
	for left > 0 {
		n, err := r.Read(buf[:min(left, int64(len(buf)))])
		if n == 0 && err == nil {
			if idle++; idle > maxIdleReads {
				return damaged(io.ErrNoProgress)
			}
			continue
		}
		idle = 0
		if _, werr := w.Write(buf[:n]); werr != nil {
			return fmt.Errorf("writing: %w", werr)
		}
		left -= int64(n)
		if err == io.EOF && left > 0 {
			return fmt.Errorf("it ends after %d of the %d bytes it says to have: the file is damaged", size-left, size)
		}
		if err != nil && err != io.EOF {
			return damaged(err)
		}
	}
	return checkEnd(r, size)
}

// checkEnd reads r to its end, where formats have their checksum.
func checkEnd(r io.Reader, size int64) error {
	var one [1]byte
	n, err := io.ReadFull(r, one[:])
	if n > 0 {
		return fmt.Errorf("it has more than the %d bytes it says to have: the file is damaged", size)
	}
	if err != io.EOF {
		return damaged(err)
	}
	return nil
}

func damaged(err error) error { return fmt.Errorf("the file is damaged: %w", err) }

func nothing() {}

func openGzip(r io.Reader, _ int) (io.Reader, func(), error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	z.Multistream(false)
	return z, nothing, nil
}

func openXZ(r io.Reader, window int) (io.Reader, func(), error) {
	z, err := mxz.NewReader(r, uint32(window))
	if err != nil {
		return nil, nil, err
	}
	z.Multistream(false)
	return z, nothing, nil
}

func openZstd(r io.Reader, window int) (io.Reader, func(), error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

func openLZ4(r io.Reader, _ int) (io.Reader, func(), error) { return lz4.NewReader(r), nothing, nil }

func openBzip2(r io.Reader, _ int) (io.Reader, func(), error) {
	return bzip2.NewReader(r), nothing, nil
}

func openStored(r io.Reader, _ int) (io.Reader, func(), error) { return r, nothing, nil }

// openLZMA checks the dictionary size, which the header may put at anything up to 4 GiB.
func openLZMA(r io.Reader, window int) (io.Reader, func(), error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(lzma.HeaderLen)
	if err != nil {
		return nil, nil, err
	}
	if dict := binary.LittleEndian.Uint32(head[1:]); uint64(dict) > uint64(window) {
		return nil, nil, fmt.Errorf("dictionary of %d bytes, more than the %d allowed", dict, window)
	}
	z, err := lzma.NewReader(b)
	if err != nil {
		return nil, nil, err
	}
	return z, nothing, nil
}
