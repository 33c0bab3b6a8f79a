package share

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// requestBytes holds the longest request apart from file data: 16 names of 255 bytes.
	requestBytes  = 8 << 10
	responseBytes = 32 << 10 // the longest response apart from file data: directory entries
	pathBytes     = unix.PathMax
)

// Call is one message and its response, with the buffers that handling needs (72 KiB), so that
// a call costs no allocation. It is used for one message at a time: [Session.Begin],
// [Session.Handle], [Session.Finish].
type Call struct {
	// In is the request and Out the room for the response. The bytes belong to the caller and
	// may be changed by the guest at any time.
	In, Out [][]byte

	typ    uint8
	tag    uint16
	broken bool   // the request is no message
	atHand bool   // to be done at once or not at all
	size   int    // bytes of the request
	serial uint64 // tells the uses of one Call apart
	body   decoder
	w      encoder
	data   int // bytes that were put into Out behind the first dataBytes
	room   int // bytes of Out

	st       unix.Statx_t
	iov      []unix.Iovec
	path     [pathBytes]byte
	request  [requestBytes]byte
	response [responseBytes]byte
	entries  []byte // of a host directory
}

// receive copies the request and decodes its header.
func (c *Call) receive() {
	n, total := 0, 0
	for _, b := range c.In {
		n += copy(c.request[n:], b)
		total += len(b)
	}
	c.room = 0
	for _, b := range c.Out {
		c.room += len(b)
	}
	c.body = decoder{b: c.request[:n]}
	size := uint64(c.body.u32())
	c.typ = c.body.u8()
	c.tag = c.body.u16()
	c.broken = c.body.bad || size < headerBytes || size > uint64(total) || size > MaxMessage ||
		size > requestBytes && c.typ != twrite
	c.size = int(min(size, MaxMessage))
	if !c.broken {
		c.body.b = c.body.b[:min(c.size, n)-headerBytes]
	}
	c.reset()
}

// reset begins the response.
func (c *Call) reset() {
	c.data = 0
	c.w.b = c.response[:headerBytes]
}

// deliver completes the response, puts it into Out, and returns its bytes: 0 if there is no
// room for even an error.
func (c *Call) deliver(err error) int {
	typ := c.typ + 1
	if err == nil && len(c.w.b)+c.data > c.room {
		err = unix.EMSGSIZE
	}
	if err != nil {
		typ = rlerror
		c.reset()
		c.w.u32(uint32(errno(err)))
	}
	if len(c.w.b) > c.room {
		return 0
	}
	n := len(c.w.b) + c.data
	binary.LittleEndian.PutUint32(c.w.b[0:], uint32(n))
	c.w.b[4] = typ
	binary.LittleEndian.PutUint16(c.w.b[5:], c.tag)
	rest := c.w.b
	for _, b := range c.Out {
		rest = rest[copy(b, rest):]
	}
	return n
}

func errno(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EIO
}

// vector returns the n bytes of bufs behind the first skip bytes, or what there is of them.
func (c *Call) vector(bufs [][]byte, skip, n int) []unix.Iovec {
	c.iov = c.iov[:0]
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		b = b[:min(n, len(b))]
		if len(b) == 0 {
			break
		}
		n -= len(b)
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		c.iov = append(c.iov, v)
	}
	return c.iov
}

// terminated returns name with a NUL behind it, in the call's path buffer.
func (c *Call) terminated(name string) []byte {
	n := copy(c.path[:pathBytes-1], name)
	c.path[n] = 0
	return c.path[:n+1]
}

// procName returns the name of the descriptor fd in /proc/self/fd, with a NUL behind it.
func (c *Call) procName(fd int) []byte {
	i := 20
	c.path[i] = 0
	for end := i + 1; ; {
		i--
		c.path[i] = byte('0' + fd%10)
		if fd /= 10; fd == 0 {
			return c.path[i:end]
		}
	}
}
