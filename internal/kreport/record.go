package kreport

import (
	"bytes"
	"fmt"
	"strconv"
)

// Record is a record of a kernel's ring buffer, as a read of /dev/kmsg has it: "6,339,5140900,-,caller=T1;text", in Linux's
// Documentation/ABI/testing/dev-kmsg.
type Record struct {
	Level    int // 0 is the most severe
	Facility int // 0 is the kernel; others wrote to /dev/kmsg
	Seq      uint64
	Micros   uint64 // since the kernel's start
	Text     []byte // may have several lines
}

// ParseRecord reads a record's first line. What follows it, lines that begin with a space, is not for people.
func ParseRecord(line []byte) (Record, bool) {
	head, text, ok := bytes.Cut(line, []byte{';'})
	fields := bytes.Split(head, []byte{','})
	if !ok || len(head) > 200 || len(fields) < 3 {
		return Record{}, false
	}
	var numbers [3]uint64
	for i := range numbers {
		n, err := strconv.ParseUint(string(fields[i]), 10, 63)
		if err != nil {
			return Record{}, false
		}
		numbers[i] = n
	}
	const levels = 8
	return Record{
		Level: int(numbers[0] % levels), Facility: int(numbers[0] / levels), Seq: numbers[1], Micros: numbers[2],
		Text: unescape(bytes.TrimRight(text, "\r\n")),
	}, true
}

// unescape undoes the kernel's \xNN for bytes that are not printable.
func unescape(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\x`)) {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) && text[i+1] == 'x' {
			if n, err := strconv.ParseUint(string(text[i+2:i+4]), 16, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

// consoleLine is a line of the record as a console prints it.
func (r *Record) consoleLine(text []byte) string {
	return fmt.Sprintf("[%5d.%06d] %s\n", r.Micros/1e6, r.Micros%1e6, clean(text))
}

// keysKept bounds how many lines are remembered as seen.
const keysKept = 8192

// keyText is how much of a line counts.
const keyText = 200

// keys are the lines that were seen last, on the console or in the ring buffer.
type keys struct {
	known map[string]bool
	order []string // a ring, once it is full
	next  int
}

// add remembers a line and reports whether it was not known.
func (k *keys) add(micros uint64, text []byte) bool {
	text = bytes.TrimRight(text, " \r\n")
	key := strconv.FormatUint(micros, 10) + ";" + string(text[:min(len(text), keyText)])
	if k.known[key] {
		return false
	}
	if k.known == nil {
		k.known = make(map[string]bool)
	}
	k.known[key] = true
	if len(k.order) < keysKept {
		k.order = append(k.order, key)
		return true
	}
	delete(k.known, k.order[k.next])
	k.order[k.next] = key
	k.next = (k.next + 1) % keysKept
	return true
}
