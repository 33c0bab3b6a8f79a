package acpi

import "encoding/binary"

// Resource descriptors (ACPI 6.4.2, 6.4.3): small ones have type and length in one byte.
const (
	resIRQ         = 0x22 // two bytes of mask: edge, active high
	resIO          = 0x47
	resEnd         = 0x79
	resMemory32    = 0x86
	resDwordSpace  = 0x87
	resWordSpace   = 0x88
	resQwordSpace  = 0x8a
	ioDecode16     = 1
	memReadWrite   = 1
	spaceMemory    = 0
	spaceIO        = 1
	spaceBus       = 2
	spaceFixed     = 1<<2 | 1<<3 // minimum and maximum address are fixed; producer
	ioEntireRange  = 3           // ISA and non-ISA addresses
	lengthMemory32 = 9
)

// resources encodes a resource template: the descriptors and an end tag.
func resources(descriptors ...term) term {
	return buffer(append(join(descriptors...), resEnd, 0)) // checksum 0: not checked
}

// ioPorts is a fixed run of n ports.
func ioPorts(port uint16, n byte) term {
	t := term{resIO, ioDecode16}
	t = binary.LittleEndian.AppendUint16(t, port)
	t = binary.LittleEndian.AppendUint16(t, port)
	return append(t, 1, n)
}

// isaIRQ is an edge-triggered ISA interrupt below 16.
func isaIRQ(n uint) term {
	return binary.LittleEndian.AppendUint16(term{resIRQ}, 1<<n)
}

// memory32 is a fixed span of memory.
func memory32(base, size uint32) term {
	t := term{resMemory32, lengthMemory32, 0, memReadWrite}
	t = binary.LittleEndian.AppendUint32(t, base)
	return binary.LittleEndian.AppendUint32(t, size)
}

// busNumbers, ioWindow, memWindow32 and memWindow64 are what a bridge passes on.
func busNumbers(first, n uint16) term {
	return wordSpace(spaceBus, 0, first, n)
}

func ioWindow(first, n uint16) term {
	return wordSpace(spaceIO, ioEntireRange, first, n)
}

func wordSpace(kind, flags byte, first, n uint16) term {
	t := spaceHeader(resWordSpace, 13, kind, flags)
	for _, v := range []uint16{0, first, first + n - 1, 0, n} {
		t = binary.LittleEndian.AppendUint16(t, v)
	}
	return t
}

func memWindow32(base, size uint32) term {
	t := spaceHeader(resDwordSpace, 23, spaceMemory, memReadWrite)
	for _, v := range []uint32{0, base, base + size - 1, 0, size} {
		t = binary.LittleEndian.AppendUint32(t, v)
	}
	return t
}

func memWindow64(base, size uint64) term {
	t := spaceHeader(resQwordSpace, 43, spaceMemory, memReadWrite)
	for _, v := range []uint64{0, base, base + size - 1, 0, size} {
		t = binary.LittleEndian.AppendUint64(t, v)
	}
	return t
}

// spaceHeader starts an address space descriptor of n bytes. What follows is
// granularity, minimum, maximum, translation and length.
func spaceHeader(tag byte, n uint16, kind, flags byte) term {
	t := binary.LittleEndian.AppendUint16(term{tag}, n)
	return append(t, kind, spaceFixed, flags)
}
