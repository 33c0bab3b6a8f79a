package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Push writes size bytes of r to a file in the guest, or all of r where size is -1. The file appears at once and whole, unless it is
// one that can't be replaced: a device, or a file of the kernel's file systems. Folders above it are made. When ctx ends first, r may be read until the session ends.
func (s *Session) Push(ctx context.Context, path string, mode fs.FileMode, size int64, r io.Reader) error {
	_, err := await(ctx, func() (struct{}, error) {
		return struct{}{}, s.push(ctx, path, mode, size, r)
	}, nil)
	if err != nil {
		return fmt.Errorf("push %s to the guest: %w", path, err)
	}
	return nil
}

func (s *Session) push(ctx context.Context, path string, mode fs.FileMode, size int64, r io.Reader) error {
	stream, err := s.open(&agentproto.Request{Push: &agentproto.Push{Path: path, Mode: uint32(mode.Perm()), Size: max(size, 0), Chunks: size < 0}})
	if err != nil {
		return err
	}
	defer s.drop(stream)
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(past()) })
	defer stop()

	// The agent may refuse before it has read everything: its answer ends the copy.
	answer := make(chan error, 1)
	go func() {
		_, err := agentproto.ReadReply(stream)
		stream.SetWriteDeadline(past())
		answer <- err
	}()
	copyErr := sendFile(stream, r, size)
	if read := (*agentproto.ReadError)(nil); errors.As(copyErr, &read) {
		stream.Close()
		<-answer // the agent has removed what came
		return read.Err
	}
	if err := s.cause(ctx, <-answer); err != nil {
		return err
	}
	return copyErr
}

// sendFile sends size bytes, or chunks to the end. An error of r is a *agentproto.ReadError.
func sendFile(w io.Writer, r io.Reader, size int64) error {
	if size < 0 {
		return agentproto.WriteChunks(w, r)
	}
	from := &failing{r: r}
	n, err := io.CopyN(w, from, size)
	switch {
	case n == size:
		return nil
	case from.err == nil:
		return err
	case from.err == io.EOF:
		return &agentproto.ReadError{Err: fmt.Errorf("%d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)}
	}
	return &agentproto.ReadError{Err: from.err}
}

// failing notes a reader's error.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (n int, err error) {
	n, f.err = f.r.Read(p)
	return n, f.err
}

// Pull copies a regular file of the guest, to its end whatever its size says, to w and returns its permission bits. When ctx ends
// first, w may be written to until the session ends. A file of more than DefaultTreeLimit bytes is an error.
func (s *Session) Pull(ctx context.Context, path string, w io.Writer) (fs.FileMode, error) {
	return s.PullSome(ctx, path, w, DefaultTreeLimit)
}

// PullSome is Pull with a limit of one's own, in bytes.
func (s *Session) PullSome(ctx context.Context, path string, w io.Writer, limit int64) (fs.FileMode, error) {
	mode, err := await(ctx, func() (fs.FileMode, error) { return s.pull(ctx, path, w, limit) }, nil)
	if err != nil {
		return 0, fmt.Errorf("pull %s from the guest: %w", path, err)
	}
	return mode, nil
}

func (s *Session) pull(ctx context.Context, path string, w io.Writer, limit int64) (fs.FileMode, error) {
	stream, err := s.open(&agentproto.Request{Pull: &agentproto.Pull{Path: path}})
	if err != nil {
		return 0, err
	}
	defer s.drop(stream)
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(past()) })
	defer stop()

	reply, err := agentproto.ReadReply(stream)
	if err != nil {
		return 0, s.cause(ctx, err)
	}
	if reply.File == nil {
		return 0, fmt.Errorf("the guest's agent did not describe the file")
	}
	err = agentproto.ReadChunks(w, stream, limit)
	if errors.Is(err, agentproto.ErrTooLong) {
		return 0, fmt.Errorf("more than %d bytes: %w", limit, err)
	}
	if err == nil {
		_, err = agentproto.ReadReply(stream)
	}
	return fs.FileMode(reply.File.Mode).Perm(), s.cause(ctx, err)
}
