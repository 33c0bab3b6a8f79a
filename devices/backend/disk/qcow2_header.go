package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Source for qcow2: "The qcow2 image format", docs/interop/qcow2.txt in QEMU's source. All numbers are big-endian.

const (
	qcow2Magic     = "QFI\xfb"
	v2HeaderSize   = 72
	v3HeaderSize   = 104
	maxBackingName = 1023
	maxL1          = 32 << 20 // bytes; QEMU has the same limit
	minClusterBits = 9
	maxClusterBits = 21

	// Header extensions.
	extEnd           = 0
	extBackingFormat = 0xe2792aca

	// Incompatible features.
	featureDirty       = 1 << 0 // reference counts are stale: no matter to who only reads
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
)

// isQCOW2 tells by the first bytes of a file.
func isQCOW2(head []byte) bool {
	return len(head) >= len(qcow2Magic) && string(head[:len(qcow2Magic)]) == qcow2Magic
}

// header is what is needed of a qcow2 header, checked.
type header struct {
	version       uint32
	clusterBits   uint
	size          int64 // of the disk, bytes
	l1Offset      int64
	l1Entries     int
	zstd          bool
	backing       string // name as it stands there, "" for none
	backingFormat string // "" if none is declared
}

// parseHeader checks the header in head, the file's first bytes: its first cluster, or the file.
func parseHeader(head []byte) (*header, error) {
	if !isQCOW2(head) || len(head) < v2HeaderSize {
		return nil, errors.New("is not a qcow2 image")
	}
	be := binary.BigEndian
	h := &header{version: be.Uint32(head[4:])}
	if h.version != 2 && h.version != 3 {
		return nil, fmt.Errorf("qcow2 of version %d: 2 and 3 are known", h.version)
	}
	bits := be.Uint32(head[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return nil, fmt.Errorf("qcow2 header: clusters of 2^%d bytes, not 2^%d to 2^%d", bits, minClusterBits, maxClusterBits)
	}
	h.clusterBits = uint(bits)
	if crypt := be.Uint32(head[32:]); crypt != 0 {
		return nil, fmt.Errorf("the image is encrypted (method %d), which stile does not read; convert it with qemu-img", crypt)
	}
	if err := h.parseTables(head); err != nil {
		return nil, err
	}
	length := uint64(v2HeaderSize)
	if h.version == 3 {
		var err error
		if length, err = h.parseV3(head); err != nil {
			return nil, err
		}
	}
	return h, h.parseBacking(head, length)
}

// parseTables checks the disk's size and where its L1 table is.
func (h *header) parseTables(head []byte) error {
	be := binary.BigEndian
	size, entries, offset := be.Uint64(head[24:]), be.Uint32(head[36:]), be.Uint64(head[40:])
	if size == 0 || size%SectorSize != 0 || size > MaxSize {
		return fmt.Errorf("qcow2 header: a disk of %d bytes; must be whole sectors of %d bytes, at most %d", size, SectorSize, int64(MaxSize))
	}
	perTable := h.clusterBits + h.clusterBits - 3 // bits of the bytes that one L2 table maps
	need := (size + 1<<perTable - 1) >> perTable
	switch {
	case uint64(entries) < need:
		return fmt.Errorf("qcow2 header: %d L1 entries, %d bytes of disk need %d", entries, size, need)
	case need*8 > maxL1:
		return fmt.Errorf("qcow2 header: %d L1 entries are more than the %d that are possible", need, maxL1/8)
	case offset%(1<<h.clusterBits) != 0 || offset == 0 || offset >= 1<<56:
		return fmt.Errorf("qcow2 header: L1 table at %#x, which is no cluster", offset)
	}
	h.size, h.l1Entries, h.l1Offset = int64(size), int(need), int64(offset)
	return nil
}

// parseV3 checks what version 3 adds and returns the header's length.
func (h *header) parseV3(head []byte) (uint64, error) {
	if len(head) < v3HeaderSize {
		return 0, errors.New("qcow2 header: the file ends within it")
	}
	be := binary.BigEndian
	features, length := be.Uint64(head[72:]), uint64(be.Uint32(head[100:]))
	if length < v3HeaderSize || length%8 != 0 || length > uint64(len(head)) {
		return 0, fmt.Errorf("qcow2 header: its length is given as %d bytes", length)
	}
	switch {
	case features&featureCorrupt != 0:
		return 0, errors.New("the image is marked as corrupt; see what is left with: qemu-img check -r all IMAGE")
	case features&featureDataFile != 0:
		return 0, errors.New("the image keeps its data in another file, which stile does not read; convert it with qemu-img")
	case features&featureExtendedL2 != 0:
		return 0, errors.New("the image has extended L2 entries, which stile does not read; convert it with: qemu-img convert -O qcow2 IMAGE NEW")
	case features&^(featureDirty|featureCompression) != 0:
		return 0, fmt.Errorf("the image has unknown features (%#x); convert it with qemu-img", features)
	}
	kind := byte(0)
	if length > v3HeaderSize {
		kind = head[v3HeaderSize]
	}
	if kind > 1 || (kind != 0) != (features&featureCompression != 0) {
		return 0, fmt.Errorf("qcow2 header: compression type %d with features %#x; zlib (0) and zstd (1) are known", kind, features)
	}
	h.zstd = kind == 1
	return length, nil
}

// parseBacking reads the backing file's name, and the extensions for its format.
func (h *header) parseBacking(head []byte, length uint64) error {
	be := binary.BigEndian
	offset, size := be.Uint64(head[8:]), uint64(be.Uint32(head[16:]))
	if offset == 0 || size == 0 {
		return nil
	}
	if size > maxBackingName || offset < length || offset > uint64(len(head)) || size > uint64(len(head))-offset {
		return fmt.Errorf("qcow2 header: backing file's name of %d bytes at %#x is not in the first cluster", size, offset)
	}
	name := string(head[offset : offset+size])
	if strings.ContainsRune(name, 0) {
		return fmt.Errorf("qcow2 header: backing file's name %q has a NUL byte", name)
	}
	h.backing = name
	for at := length; at+8 <= offset; {
		kind, n := be.Uint32(head[at:]), uint64(be.Uint32(head[at+4:]))
		at += 8
		if kind == extEnd {
			return nil
		}
		if n > offset-at {
			return fmt.Errorf("qcow2 header: extension %#x of %d bytes is longer than the header", kind, n)
		}
		if kind == extBackingFormat {
			h.backingFormat = string(head[at : at+n])
		}
		at += (n + 7) &^ 7
	}
	return nil
}
