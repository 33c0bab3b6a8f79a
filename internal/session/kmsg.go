package session

import (
	"bufio"
	"context"
	"errors"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// maxKmsgLine bounds a record of a kernel's log, in bytes; of a longer one the beginning counts.
const maxKmsgLine = 8 << 10

// KernelLog calls record with the records of the kernel's ring buffer from the sequence number from on, without their newlines; what record gets is
// its own until it returns. With follow it goes on until ctx or the session ends, else it returns after the last one.
func (s *Session) KernelLog(ctx context.Context, from uint64, follow bool, record func(line []byte)) error {
	stream, err := s.open(&agentproto.Request{Kmsg: &agentproto.Kmsg{From: from, Follow: follow}})
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(past()); stream.Close() })
	defer stop()
	lines := bufio.NewReaderSize(stream, maxKmsgLine)
	for {
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !long {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil // the end of the log, or of the guest
		}
		record(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
	}
}
