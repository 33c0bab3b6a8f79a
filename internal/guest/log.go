package guest

import (
	"bytes"
	"io"
	"sync"
)

// tailSize is how much of the kernel's log is kept for a message, in bytes.
const tailSize = 64 << 10

// tail keeps the end of what is written to it and passes everything on. It may be used
// concurrently.
type tail struct {
	out io.Writer // nil for nobody

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out != nil {
		_, _ = t.out.Write(p) // a full disk behind the log must not stop the guest
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// lines returns the last n lines, without carriage returns.
func (t *tail) lines(n int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(bytes.ReplaceAll(t.buf, []byte{'\r'}, nil))
	from := len(text)
	for ; n > 0 && from > 0; n-- {
		from = bytes.LastIndexByte(text[:from], '\n')
		if from < 0 {
			return text
		}
	}
	if from < len(text) && text[from] == '\n' {
		from++
	}
	return bytes.Clone(text[from:])
}
