package share

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// streamCalls is the number of messages of one stream that are handled at the same time.
const streamCalls = 8

// stream serves a session over a byte stream.
type stream struct {
	session *Session
	conn    io.ReadWriteCloser
	free    chan *streamCall

	mu  sync.Mutex // held while writing a response
	err error
}

type streamCall struct {
	Call
	request, response []byte
}

// Serve answers the messages that arrive on conn, several at a time, until it ends, and closes
// it. It returns nil at the end of conn and an error if conn fails or holds something other
// than messages. It closes nothing of the session, which must not be used otherwise meanwhile.
func (s *Session) Serve(conn io.ReadWriteCloser) error {
	x := &stream{session: s, conn: conn, free: make(chan *streamCall, streamCalls)}
	for range streamCalls {
		x.free <- new(streamCall)
	}
	err := x.run()
	for range streamCalls {
		<-x.free
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(err, x.err, conn.Close())
}

func (x *stream) run() error {
	for {
		c := <-x.free
		if err := c.receiveFrom(x.conn); err != nil {
			x.free <- c
			if err == io.EOF {
				return nil
			}
			return err
		}
		x.session.Begin(&c.Call)
		go x.handle(c)
	}
}

func (x *stream) handle(c *streamCall) {
	n := x.session.Handle(&c.Call)
	x.mu.Lock()
	if _, err := x.conn.Write(c.response[:n]); err != nil && x.err == nil {
		x.err = fmt.Errorf("write 9P response: %w", err)
		x.conn.Close() // ends run
	}
	x.mu.Unlock()
	x.session.Finish(&c.Call)
	x.free <- c
}

// receiveFrom reads one message. It returns io.EOF only between messages.
func (c *streamCall) receiveFrom(r io.Reader) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err == io.EOF {
		return io.EOF
	} else if err != nil {
		return fmt.Errorf("read 9P request: %w", err)
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n < headerBytes || n > MaxMessage {
		return fmt.Errorf("9P request of %d bytes: want %d to %d", n, headerBytes, MaxMessage)
	}
	if c.response == nil {
		c.response = make([]byte, MaxMessage)
		c.Out = [][]byte{c.response}
	}
	if uint32(cap(c.request)) < n {
		c.request = make([]byte, n)
	}
	c.request = c.request[:n]
	copy(c.request, size[:])
	if _, err := io.ReadFull(r, c.request[4:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read 9P request: %w", err)
	}
	c.In = [][]byte{c.request}
	return nil
}
