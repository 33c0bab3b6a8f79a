package disk

// cursor is a position in a list of buffers.
type cursor struct {
	bufs [][]byte // the first one is not empty, unless all is used up
	at   int      // offset in the first
}

// newCursor returns the start of bufs and how many bytes they hold.
func newCursor(bufs [][]byte) (c cursor, n int64) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	return cursor{bufs: bufs}.after(0), n
}

// after returns the position n bytes further on, which must be there.
func (c cursor) after(n int64) cursor {
	for len(c.bufs) > 0 {
		left := int64(len(c.bufs[0]) - c.at)
		if n < left {
			c.at += int(n)
			return c
		}
		n -= left
		c.bufs, c.at = c.bufs[1:], 0
	}
	return c
}

// next returns the next bytes that lie together, at most n.
func (c cursor) next(n int64) []byte {
	b := c.bufs[0][c.at:]
	return b[:min(int64(len(b)), n)]
}

// zero clears the next n bytes.
func (c cursor) zero(n int64) {
	for n > 0 {
		b := c.next(n)
		clear(b)
		n -= int64(len(b))
		c = c.after(int64(len(b)))
	}
}

// put copies p to the next bytes.
func (c cursor) put(p []byte) {
	for len(p) > 0 {
		n := copy(c.next(int64(len(p))), p)
		p = p[n:]
		c = c.after(int64(n))
	}
}

// get copies the next bytes to p.
func (c cursor) get(p []byte) {
	for len(p) > 0 {
		n := copy(p, c.next(int64(len(p))))
		p = p[n:]
		c = c.after(int64(n))
	}
}
