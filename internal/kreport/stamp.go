package kreport

import (
	"bytes"
	"strconv"
	"strings"
)

// Option is the word of a kernel's command line by which its log's lines begin with a time, also where that is not its default.
const Option = "printk.time=1"

// LinesTimed reports whether a kernel with this command line is known to begin its log's lines with a time.
func LinesTimed(cmdline string) bool {
	key, _, _ := strings.Cut(Option, "=")
	last := ""
	for word := range strings.FieldsSeq(cmdline) {
		if strings.HasPrefix(word, key+"=") {
			last = word
		}
	}
	return last == Option
}

// stamp takes the first time out of a line of a console, "[    1.234567]", if there is one: seconds since the kernel's
// start. It need not be at the line's beginning, for a prompt may stand there. rest is what follows, without the
// caller that some kernels add, "[  T123]". (kernel/printk/printk.c, print_time, print_caller)
func stamp(line []byte) (seconds float64, rest []byte, ok bool) {
	for {
		_, after, found := bytes.Cut(line, []byte{'['})
		if !found {
			return 0, nil, false
		}
		line = after
		whole, after, _ := bytes.Cut(bytes.TrimLeft(after, " "), []byte{'.'})
		micros, after, closed := bytes.Cut(after, []byte{']'})
		if !closed || !isNumber(whole) || !isNumber(micros) || len(micros) != 6 {
			continue
		}
		seconds, _ = strconv.ParseFloat(string(whole)+"."+string(micros), 64) // digits only
		return seconds, withoutCaller(bytes.TrimPrefix(after, []byte{' '})), true
	}
}

// withoutCaller removes "[  T123] " or "[    C0] ".
func withoutCaller(text []byte) []byte {
	inner, after, ok := bytes.Cut(text, []byte("] "))
	if !ok {
		inner, after, ok = bytes.Cut(text, []byte{']'})
	}
	id, found := bytes.CutPrefix(inner, []byte{'['})
	id = bytes.TrimLeft(id, " ")
	if !ok || !found || len(id) < 2 || id[0] != 'T' && id[0] != 'C' || !isNumber(id[1:]) {
		return text
	}
	return bytes.TrimPrefix(after, []byte{' '})
}

func isNumber(text []byte) bool {
	for _, b := range text {
		if b < '0' || b > '9' {
			return false
		}
	}
	return len(text) > 0
}
