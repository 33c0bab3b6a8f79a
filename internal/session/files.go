package session

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Push writes size bytes of r to a file in the guest, which appears at once and whole.
// Folders above it are made. When ctx ends first, r may be read until the session ends.
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
	stream, err := s.open(&agentproto.Request{Push: &agentproto.Push{Path: path, Mode: uint32(mode.Perm()), Size: size}})
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
	n, copyErr := io.CopyN(stream, r, size)
	if n < size && copyErr == io.EOF {
		stream.Close()
		<-answer // the agent has removed what came
		return fmt.Errorf("%d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err := s.cause(ctx, <-answer); err != nil {
		return err
	}
	if n < size {
		return copyErr
	}
	return nil
}

// Pull copies a regular file of the guest to w and returns its permission bits. When ctx ends first, w may be
// written to until the session ends.
func (s *Session) Pull(ctx context.Context, path string, w io.Writer) (fs.FileMode, error) {
	mode, err := await(ctx, func() (fs.FileMode, error) { return s.pull(ctx, path, w) }, nil)
	if err != nil {
		return 0, fmt.Errorf("pull %s from the guest: %w", path, err)
	}
	return mode, nil
}

func (s *Session) pull(ctx context.Context, path string, w io.Writer) (fs.FileMode, error) {
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
	n, err := io.CopyN(w, stream, reply.File.Size)
	if n < reply.File.Size && err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fs.FileMode(reply.File.Mode).Perm(), s.cause(ctx, err)
}
