package session

import (
	"errors"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// StreamError says that this end of a command's standard stream failed.
type StreamError struct {
	// Stream is the standard stream.
	Stream agentproto.Stream
	// Err is what its reader or writer said.
	Err error
}

// Error returns the reader's or writer's own words.
func (e *StreamError) Error() string { return e.Err.Error() }

// Unwrap returns the reader's or writer's error.
func (e *StreamError) Unwrap() error { return e.Err }

// input sends a command its standard input, and leaves in it what the command does not read, as far as that is possible:
// exactly for files, for pipes up to the first piece that the command has read whole.
type input struct {
	stream *yamux.Stream
	reader io.Reader
	from   source
	begun  chan struct{} // closed once the command has read what was sent first
	ended  chan struct{} // closed once it wants no more

	mu      sync.Mutex
	first   int64 // bytes that were sent first
	taken   bool  // they were taken from the source
	settled bool
	err     error // the source's
}

// source is where input comes from.
type source interface {
	// peek waits for the first bytes, and leaves them there if it can.
	peek(p []byte) (int, error)
	// take takes the first n bytes.
	take(n int64)
	// read returns what follows.
	read(p []byte) (int, error)
	// settle is called once the command has ended, which has read n bytes.
	settle(n int64)
}

func newInput(stream *yamux.Stream, r io.Reader) *input {
	return &input{stream: stream, reader: r, from: newSource(r), begun: make(chan struct{}), ended: make(chan struct{})}
}

// inputChunk is how much is read and sent at a time, in bytes.
const inputChunk = 32 << 10

// send sends the input until it ends or the command wants no more.
func (i *input) send() {
	defer i.stream.Close()
	buf := make([]byte, inputChunk)
	n, err := i.from.peek(buf[:agentproto.FirstInput])
	if n > 0 && !i.sendFirst(buf[:n]) {
		return
	}
	for err == nil {
		if n, err = i.from.read(buf); n == 0 {
			continue
		}
		if _, writeErr := i.stream.Write(buf[:n]); writeErr != nil {
			return
		}
	}
	if err != io.EOF {
		i.mu.Lock()
		i.err = &StreamError{agentproto.Stdin, err}
		i.mu.Unlock()
	}
}

// sendFirst sends the first bytes, and reports whether the command has read them.
func (i *input) sendFirst(p []byte) bool {
	i.mu.Lock()
	i.first = int64(len(p))
	i.mu.Unlock()
	if _, err := i.stream.Write(p); err != nil {
		return false
	}
	select {
	case <-i.begun:
	case <-i.ended:
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.settled {
		return false
	}
	i.from.take(i.first)
	i.taken = true
	return true
}

// watch waits for what the agent says: that the command has read what was sent first, and, by closing its end, that it reads no more.
func (i *input) watch() {
	defer close(i.ended)
	if n, _ := i.stream.Read(make([]byte, 1)); n > 0 {
		close(i.begun)
		io.Copy(io.Discard, i.stream)
	}
	i.stream.SetWriteDeadline(past())
	if ender, ok := i.reader.(InputEnder); ok {
		ender.EndInput()
	}
}

// InputEnder is a command's Stdin that wants to know when the command reads no more, which may be long before its end.
type InputEnder interface{ EndInput() }

// settle takes what the command has read from the source, and returns the source's error.
func (i *input) settle(read int64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.settled = true
	if !i.taken {
		i.from.take(min(read, i.first))
	}
	i.from.settle(read)
	return i.err
}

// newSource returns the source for a reader: files and pipes are treated with care.
func newSource(r io.Reader) source {
	f, ok := r.(*os.File)
	if !ok {
		return eager{r}
	}
	info, err := f.Stat()
	if err != nil {
		return eager{r}
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		if start, err := f.Seek(0, io.SeekCurrent); err == nil {
			return &fileSource{f: f, start: start, at: start}
		}
	case mode&os.ModeNamedPipe != 0:
		return &pipeSource{f: f}
	}
	return eager{r}
}

// eager is a source whose bytes can't be put back: they are taken as they come.
type eager struct{ r io.Reader }

func (e eager) peek(p []byte) (int, error) { return e.r.Read(p) }
func (e eager) take(int64)                 {}
func (e eager) read(p []byte) (int, error) { return e.r.Read(p) }
func (e eager) settle(int64)               {}

// fileSource is a regular file: its offset moves once the command has ended.
type fileSource struct {
	f         *os.File
	start, at int64 // at is changed by the sender alone
}

func (s *fileSource) peek(p []byte) (int, error) { return s.read(p) }

func (s *fileSource) take(int64) {}

func (s *fileSource) read(p []byte) (int, error) {
	n, err := s.f.ReadAt(p, s.at)
	s.at += int64(n)
	return n, err
}

func (s *fileSource) settle(n int64) {
	info, err := s.f.Stat()
	if err != nil {
		return // closed meanwhile
	}
	if at := s.start + n; at >= s.start && at <= max(info.Size(), s.start) { // an agent may lie
		_, _ = s.f.Seek(at, io.SeekStart)
	}
}

// pipeSource is a pipe: its first bytes are duplicated by tee(2) and stay in it.
type pipeSource struct {
	f      *os.File
	peeked bool
}

func (s *pipeSource) peek(p []byte) (int, error) {
	var copied [2]int
	if unix.Pipe2(copied[:], unix.O_CLOEXEC) != nil {
		return s.f.Read(p)
	}
	defer unix.Close(copied[0])
	defer unix.Close(copied[1])
	raw, err := s.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int64
	var teeErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, teeErr = unix.Tee(int(fd), copied[1], len(p), 0)
			if teeErr != unix.EINTR {
				return teeErr != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case teeErr != nil: // not allowed in some containers
		return s.f.Read(p)
	case n == 0:
		return 0, io.EOF
	}
	s.peeked = true
	return unix.Read(copied[0], p[:n])
}

// take drops n bytes, and never waits for any: another reader of the pipe may have been faster.
func (s *pipeSource) take(n int64) {
	if !s.peeked || n <= 0 {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer null.Close()
	raw, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // fails where it was closed
		for n > 0 {
			moved, err := unix.Splice(int(fd), nil, int(null.Fd()), nil, int(n), unix.SPLICE_F_NONBLOCK)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || moved <= 0 {
				return
			}
			n -= moved
		}
	})
}

func (s *pipeSource) read(p []byte) (int, error) { return s.f.Read(p) }

func (s *pipeSource) settle(int64) {}
