package agentproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A file whose length nobody knows before its end (those of the kernel's file systems say 0, or a page) is sent in chunks: a length of
// four bytes, big-endian, and so many bytes. The last chunk has none.

// maxChunk bounds a chunk, in bytes.
const maxChunk = 64 << 10

// ReadError is an error of what is sent, and not of the channel.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }

// Unwrap returns the reader's error.
func (e *ReadError) Unwrap() error { return e.Err }

// WriteChunks sends r to its end. An error of r, a *ReadError, leaves out the last chunk: what comes then is up to the caller, which may
// end the stream or call EndChunks.
func WriteChunks(w io.Writer, r io.Reader) error {
	chunk := make([]byte, 4+maxChunk)
	for {
		n, err := r.Read(chunk[4:])
		if n > 0 {
			binary.BigEndian.PutUint32(chunk, uint32(n))
			if _, err := w.Write(chunk[:4+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return EndChunks(w)
		}
		if err != nil {
			return &ReadError{err}
		}
	}
}

// EndChunks sends the last chunk.
func EndChunks(w io.Writer) error {
	_, err := w.Write(make([]byte, 4))
	return err
}

// ErrTooLong says that more was sent than the limit.
var ErrTooLong = errors.New("it is longer than the limit")

// ReadChunks receives chunks to the last, of no more than limit bytes in all.
func ReadChunks(w io.Writer, r io.Reader, limit int64) error {
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return cutShort(err)
		}
		n := int64(binary.BigEndian.Uint32(head[:]))
		switch {
		case n == 0:
			return nil
		case n > maxChunk:
			return fmt.Errorf("a chunk of %d bytes: at most %d", n, maxChunk)
		case n > limit:
			return ErrTooLong
		}
		limit -= n
		if _, err := io.CopyN(w, r, n); err != nil {
			return cutShort(err)
		}
	}
}

func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
