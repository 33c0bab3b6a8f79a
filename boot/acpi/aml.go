package acpi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// AML opcodes (ACPI 20.2).
const (
	amlZero       = 0x00
	amlOne        = 0x01
	amlName       = 0x08
	amlByte       = 0x0a
	amlWord       = 0x0b
	amlDword      = 0x0c
	amlString     = 0x0d
	amlQword      = 0x0e
	amlScope      = 0x10
	amlBuffer     = 0x11
	amlPackage    = 0x12
	amlMethod     = 0x14
	amlDual       = 0x2e
	amlExt        = 0x5b
	amlExtDevice  = 0x82
	amlRoot       = '\\'
	amlArg0       = 0x68
	amlOr         = 0x7d
	amlDwordField = 0x8a
	amlLNot       = 0x92
	amlLEqual     = 0x93
	amlIf         = 0xa0
	amlElse       = 0xa1
	amlReturn     = 0xa4
)

// term is a piece of AML.
type term []byte

func join(parts ...term) term {
	var t term
	for _, p := range parts {
		t = append(t, p...)
	}
	return t
}

// sized returns op, a package length and the parts (ACPI 20.2.4). The length counts
// itself: 1 byte for up to 63, else the low 4 bits and 1 to 3 bytes more.
func sized(op term, parts ...term) term {
	body := join(parts...)
	t := append(term(nil), op...)
	if n := len(body) + 1; n < 1<<6 {
		return append(append(t, byte(n)), body...)
	}
	more := 1
	for len(body)+1+more >= 1<<(4+8*more) {
		more++
	}
	n := len(body) + 1 + more
	t = append(t, byte(more<<6|n&0xf))
	for n >>= 4; more > 0; more-- {
		t = append(t, byte(n))
		n >>= 8
	}
	return append(t, body...)
}

// path encodes a name such as "PCI0", `\_SB` or "_SB.PCI0": segments of 4 characters,
// padded (ACPI 20.2.2). At most two segments are needed here.
func path(s string) term {
	var t term
	rest, root := strings.CutPrefix(s, `\`)
	if root {
		t = append(t, amlRoot)
	}
	segments := strings.Split(rest, ".")
	if len(segments) == 2 {
		t = append(t, amlDual)
	}
	for _, seg := range segments {
		t = append(t, (seg + "____")[:4]...)
	}
	return t
}

// integer encodes n in the fewest bytes.
func integer(n uint64) term {
	switch {
	case n == 0:
		return term{amlZero}
	case n == 1:
		return term{amlOne}
	case n < 1<<8:
		return term{amlByte, byte(n)}
	case n < 1<<16:
		return binary.LittleEndian.AppendUint16(term{amlWord}, uint16(n))
	case n < 1<<32:
		return binary.LittleEndian.AppendUint32(term{amlDword}, uint32(n))
	}
	return binary.LittleEndian.AppendUint64(term{amlQword}, n)
}

func text(s string) term { return append(append(term{amlString}, s...), 0) }

// eisaID encodes an identifier such as "PNP0A08": three letters of 5 bits, four
// hexadecimal digits, big-endian.
func eisaID(s string) term {
	id := uint32(s[0]-'@')<<26 | uint32(s[1]-'@')<<21 | uint32(s[2]-'@')<<16
	for i, c := range s[3:7] {
		id |= uint32(strings.IndexRune("0123456789ABCDEF", c)) << (12 - 4*i)
	}
	return binary.BigEndian.AppendUint32(term{amlDword}, id)
}

func name(s string, value term) term { return join(term{amlName}, path(s), value) }

func scope(s string, body ...term) term {
	return sized(term{amlScope}, path(s), join(body...))
}

func device(s string, body ...term) term {
	return sized(term{amlExt, amlExtDevice}, path(s), join(body...))
}

// method encodes a method of args arguments, not serialised.
func method(s string, args byte, body ...term) term {
	return sized(term{amlMethod}, path(s), term{args}, join(body...))
}

// list encodes a package of at most 255 elements.
func list(elements ...term) term {
	return sized(term{amlPackage}, term{byte(len(elements))}, join(elements...))
}

func buffer(b []byte) term {
	return sized(term{amlBuffer}, integer(uint64(len(b))), b)
}

// uuid encodes a UUID as ToUUID does: the first three groups little-endian.
func uuid(a uint32, b, c uint16, rest [8]byte) term {
	t := binary.LittleEndian.AppendUint32(nil, a)
	t = binary.LittleEndian.AppendUint16(t, b)
	t = binary.LittleEndian.AppendUint16(t, c)
	return buffer(append(t, rest[:]...))
}

func arg(n byte) term { return term{amlArg0 + n} }

func or(a, b, target term) term { return join(term{amlOr}, a, b, target) }
func equal(a, b term) term      { return join(term{amlLEqual}, a, b) }
func not(a term) term           { return join(term{amlLNot}, a) }
func ret(value term) term       { return join(term{amlReturn}, value) }

func ifThen(cond term, body ...term) term {
	return sized(term{amlIf}, cond, join(body...))
}

func orElse(body ...term) term { return sized(term{amlElse}, body...) }

// dwordField names 4 bytes of a buffer at a byte offset.
func dwordField(buf term, offset uint64, s string) term {
	return join(term{amlDwordField}, buf, integer(offset), path(s))
}

// cpuName returns the name of CPU n's device: a C and three hexadecimal digits.
func cpuName(n int) string { return fmt.Sprintf("C%03X", n) }
