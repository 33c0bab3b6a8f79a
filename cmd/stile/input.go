package main

import (
	"io"
	"sync"
)

// inputChunk is how much is read ahead of a reader, in bytes.
const inputChunk = 4096

// sharedInput is an input for one reader after the other: what one has left is the next one's. A
// plain io.Reader would lose what the last reader was waiting for.
type sharedInput struct {
	in     io.Reader
	start  sync.Once
	chunks chan []byte

	mu   sync.Mutex
	rest []byte
}

func newSharedInput(in io.Reader) *sharedInput {
	return &sharedInput{in: in, chunks: make(chan []byte)}
}

// pump reads the input until it ends.
func (s *sharedInput) pump() {
	defer close(s.chunks)
	for {
		buf := make([]byte, inputChunk)
		n, err := s.in.Read(buf)
		if n > 0 {
			s.chunks <- buf[:n]
		}
		if err != nil {
			return
		}
	}
}

// reader returns a reader of what comes from now on. Only one is in use at a time.
func (s *sharedInput) reader() *inputReader {
	s.start.Do(func() { go s.pump() })
	return &inputReader{s, make(chan struct{})}
}

// inputReader reads a sharedInput until its Close, which makes a waiting Read return io.EOF.
type inputReader struct {
	from *sharedInput
	done chan struct{}
}

func (r *inputReader) Read(p []byte) (int, error) {
	s := r.from
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) == 0 {
		select {
		case <-r.done:
			return 0, io.EOF
		case chunk, ok := <-s.chunks:
			if !ok {
				return 0, io.EOF
			}
			s.rest = chunk
		}
	}
	select {
	case <-r.done:
		return 0, io.EOF
	default:
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (r *inputReader) Close() error {
	close(r.done)
	return nil
}
