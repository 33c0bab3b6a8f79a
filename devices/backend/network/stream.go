package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// On a stream each frame follows its length in 4 bytes, big-endian. A length with setOffloads set has no frame behind it:
// it is the card's Network.SetOffloads.
const (
	lengthSize  = 4
	setOffloads = 1 << 31
)

// stream is a network at the other end of a byte stream, where Serve is.
type stream struct {
	conn     net.Conn
	in       *bufio.Reader
	offloads Offload

	mu   sync.Mutex // guards what follows
	out  []byte     // room for one frame
	rest []byte     // of out: what the other end has not taken yet
}

// sendLimit is how long the other end may take for a frame. One that takes longer loses frames; it must not hold up the device, which
// is waited for when the guest resets it.
const sendLimit = time.Second

// NewStream returns the network at the other end of conn, of which it takes ownership. offloads is what that network has.
func NewStream(conn net.Conn, offloads Offload) Network {
	return &stream{
		conn: conn, offloads: offloads, in: bufio.NewReaderSize(conn, 4*MaxFrame), out: make([]byte, 0, lengthSize+MaxFrame),
	}
}

func (s *stream) Queues() []Queue     { return []Queue{s} }
func (s *stream) Offloads() Offload   { return s.offloads }
func (s *stream) MTU() int            { return DefaultMTU }
func (s *stream) SetActive(int) error { return nil }
func (s *stream) Close() error        { return s.conn.Close() }

// SetOffloads implements Network.
func (s *stream) SetOffloads(o Offload) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	return s.write(binary.BigEndian.AppendUint32(s.out[:0], setOffloads|uint32(o)))
}

// Send implements Queue. It waits while the other end does, but no longer than sendLimit.
func (s *stream) Send(pieces [][]byte) error {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size > MaxFrame {
		return fmt.Errorf("frame of %d bytes", size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	s.out = binary.BigEndian.AppendUint32(s.out[:0], uint32(size))
	for _, p := range pieces {
		s.out = append(s.out, p...)
	}
	return s.write(s.out)
}

// flush sends what is left of the last frame, without which the next one could not be told apart.
func (s *stream) flush() error {
	if len(s.rest) == 0 {
		return nil
	}
	if err := s.write(s.rest); err != nil {
		return err
	}
	if len(s.rest) > 0 {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// write sends p, a part of out. What the other end does not take in time is kept.
func (s *stream) write(p []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	n, err := s.conn.Write(p)
	s.rest = p[n:]
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// Receive implements Queue.
func (s *stream) Receive(frame []byte, wait bool) (int, error) {
	if !wait && !s.buffered() {
		return 0, nil
	}
	n, _, err := readFrame(s.in, frame)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, errors.Join(s.conn.SetReadDeadline(time.Time{}), ErrInterrupted)
	}
	return n, err
}

// buffered tells whether there is a whole frame that needs no more reading.
func (s *stream) buffered() bool {
	if s.in.Buffered() < lengthSize {
		return false
	}
	length, err := s.in.Peek(lengthSize)
	return err == nil && s.in.Buffered()-lengthSize >= int(binary.BigEndian.Uint32(length))
}

// Interrupt implements Queue.
func (s *stream) Interrupt() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) } // fails only when closed

// readFrame reads a frame, or with n = 0 offloads. After an error that passes it may be called again.
func readFrame(r *bufio.Reader, frame []byte) (n int, o Offload, err error) {
	head, err := r.Peek(lengthSize)
	if err != nil {
		return 0, 0, err
	}
	length := binary.BigEndian.Uint32(head)
	if length&setOffloads != 0 {
		_, err := r.Discard(lengthSize)
		return 0, Offload(length &^ setOffloads), err
	}
	if length < MinFrame || length > MaxFrame {
		return 0, 0, fmt.Errorf("frame of %d bytes", length)
	}
	whole, err := r.Peek(lengthSize + int(length))
	if err != nil {
		return 0, 0, err
	}
	n = copy(frame, whole[lengthSize:])
	_, err = r.Discard(len(whole))
	return n, 0, err
}

// Serve joins a network of one pair to the card at the other end of conn, until conn ends. It closes conn.
func Serve(conn net.Conn, n Network) error {
	q := n.Queues()[0]
	ended := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		deliver(conn, q, ended)
	}()
	err := collect(conn, n, q)
	conn.Close()
	close(ended)
	q.Interrupt()
	<-done
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// collect sends what comes from conn.
func collect(conn net.Conn, n Network, q Queue) error {
	in, frame := bufio.NewReaderSize(conn, 4*MaxFrame), make([]byte, MaxFrame)
	for {
		size, offloads, err := readFrame(in, frame)
		if err == nil && size == 0 {
			err = n.SetOffloads(offloads)
		}
		if err != nil {
			return err
		}
		if size > 0 {
			_ = q.Send([][]byte{frame[:size]}) // frames may be lost
		}
	}
}

// deliver passes on what comes from the network.
func deliver(conn net.Conn, q Queue, ended <-chan struct{}) {
	b := make([]byte, lengthSize+MaxFrame)
	for {
		n, err := q.Receive(b[lengthSize:], true)
		select {
		case <-ended:
			return
		default:
		}
		if errors.Is(err, ErrInterrupted) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return
		}
		binary.BigEndian.PutUint32(b, uint32(n))
		if _, err := conn.Write(b[:lengthSize+n]); err != nil {
			return
		}
	}
}
