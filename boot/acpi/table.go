package acpi

import "encoding/binary"

// headerSize is that of the header all tables but RSDP and FACS share (ACPI 5.2.6).
const headerSize = 36

const (
	oemID      = "STILE "
	oemTableID = "STILEVM "
	creatorID  = "STIL"
	revision   = 1
)

// table returns a table with header and checksum.
func table(signature string, rev byte, body []byte) []byte {
	t := make([]byte, headerSize, headerSize+len(body))
	t = append(t, body...)
	copy(t, signature)
	binary.LittleEndian.PutUint32(t[4:], uint32(len(t)))
	t[8] = rev
	copy(t[10:], oemID)
	copy(t[16:], oemTableID)
	binary.LittleEndian.PutUint32(t[24:], revision)
	copy(t[28:], creatorID)
	binary.LittleEndian.PutUint32(t[32:], revision)
	t[9] = checksum(t)
	return t
}

// checksum returns the byte that makes the sum of t, where it is 0 so far, 0.
func checksum(t []byte) byte {
	sum := byte(0)
	for _, c := range t {
		sum += c
	}
	return -sum
}

// rsdpSize is that of the root pointer, revision 2 (ACPI 5.2.5.3).
const rsdpSize = 36

// rsdp returns the root system description pointer to the XSDT. There is no RSDT.
func rsdp(xsdt uint64) []byte {
	t := make([]byte, rsdpSize)
	copy(t, "RSD PTR ")
	copy(t[9:], oemID)
	t[15] = 2
	t[8] = checksum(t[:20]) // the first checksum covers what revision 0 had
	binary.LittleEndian.PutUint32(t[20:], rsdpSize)
	binary.LittleEndian.PutUint64(t[24:], xsdt)
	t[32] = checksum(t)
	return t
}

func xsdt(entries []uint64) []byte {
	var body []byte
	for _, e := range entries {
		body = binary.LittleEndian.AppendUint64(body, e)
	}
	return table("XSDT", 1, body)
}

// facs returns the firmware ACPI control structure, which has no checksum (ACPI 5.2.10).
func facs() []byte {
	t := make([]byte, 64)
	copy(t, "FACS")
	binary.LittleEndian.PutUint32(t[4:], uint32(len(t)))
	t[32] = 2
	return t
}
