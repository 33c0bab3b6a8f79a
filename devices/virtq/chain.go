package virtq

import "io"

// Chain is one request: the buffers of a descriptor chain, first those the device reads,
// then those it writes. The zero value is ready for Queue.Next, and is best used again
// and again: it keeps its room. A chain has one user at a time.
//
// The buffers are guest memory. The guest may change them while they are read: whoever
// decodes a structure copies it first.
type Chain struct {
	head     uint16
	reads    int // segs[:reads] are readable, the rest is writable
	segs     [][]byte
	readLen  uint64
	writeLen uint64

	in, out cursor
	written uint64
}

// cursor is a position in a list of segments.
type cursor struct{ seg, off int }

func (c *Chain) reset(head uint16) {
	*c = Chain{head: head, segs: c.segs[:0]}
}

// Head returns the index of the chain's first descriptor, below the queue's size. Among
// the chains that a well-behaved guest has in flight it is unique.
func (c *Chain) Head() uint16 { return c.head }

// Readable returns the buffers that the device may read, as slices of guest memory,
// whole and independent of Read. They are valid until the chain is released.
func (c *Chain) Readable() [][]byte { return c.segs[:c.reads] }

// Writable returns the buffers that the device may write, as slices of guest memory.
func (c *Chain) Writable() [][]byte { return c.segs[c.reads:] }

// ReadableLen returns the bytes in all readable buffers; at most 4 GiB.
func (c *Chain) ReadableLen() uint64 { return c.readLen }

// WritableLen returns the bytes in all writable buffers; at most 4 GiB.
func (c *Chain) WritableLen() uint64 { return c.writeLen }

// Read copies the next readable bytes into p, as io.Reader: io.EOF at the end.
func (c *Chain) Read(p []byte) (int, error) {
	n := c.in.advance(c.segs[:c.reads], p, false)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write copies p into the next writable bytes, as io.Writer: io.ErrShortWrite where they
// do not suffice.
func (c *Chain) Write(p []byte) (int, error) {
	n := c.out.advance(c.segs[c.reads:], p, true)
	c.written += uint64(n)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Written returns the bytes that Write has stored, what Queue.Release wants to know.
func (c *Chain) Written() uint32 { return uint32(min(c.written, maxLen)) }

// Unread returns the bytes that Read has left.
func (c *Chain) Unread() uint64 {
	left := c.readLen
	for i := range c.in.seg {
		left -= uint64(len(c.segs[i]))
	}
	return left - uint64(c.in.off)
}

func (at *cursor) advance(segs [][]byte, p []byte, write bool) int {
	total := 0
	for total < len(p) && at.seg < len(segs) {
		part := segs[at.seg][at.off:]
		var n int
		if write {
			n = copy(part, p[total:])
		} else {
			n = copy(p[total:], part)
		}
		total += n
		at.off += n
		if at.off == len(segs[at.seg]) {
			at.seg, at.off = at.seg+1, 0
		}
	}
	return total
}
