package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

const (
	maxRecord = 8 << 10  // bytes of a record, its dictionary included (PRINTK_MESSAGE_MAX, CONSOLE_EXT_LOG_MAX)
	kmsgBatch = 32 << 10 // bytes that are sent at once
)

// kmsg writes the kernel's records to stream. With Follow it ends with the stream, which the host closes.
func kmsg(path string, k *agentproto.Kmsg, stream io.ReadWriter) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return // a kernel without a log
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if k.Follow {
		go func() {
			_, _ = io.Copy(io.Discard, stream)
			f.Close() // ends the wait for records
		}()
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var batch []byte
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			batch, readErr = readRecords(int(fd), k.From, batch)
			return len(batch) > 0 || !errors.Is(readErr, unix.EAGAIN) || !k.Follow
		})
		if len(batch) > 0 {
			if _, err := stream.Write(batch); err != nil {
				return
			}
		}
		if err != nil || readErr != nil && (!errors.Is(readErr, unix.EAGAIN) || !k.Follow) {
			return
		}
	}
}

// readRecords adds the first lines of records to batch until there is none at hand, or enough. Those before the number from are passed over,
// and so are those that the kernel has overwritten meanwhile (EPIPE).
func readRecords(fd int, from uint64, batch []byte) ([]byte, error) {
	record := make([]byte, maxRecord)
	for len(batch) < kmsgBatch {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR), errors.Is(err, unix.EINVAL): // EINVAL: longer than the buffer
			continue
		case err != nil:
			return batch, err
		case n == 0:
			return batch, io.EOF
		}
		line, _, _ := bytes.Cut(record[:n], []byte{'\n'})
		if sequence(line) >= from {
			batch = append(append(batch, line...), '\n')
		}
	}
	return batch, nil
}

// sequence is the second number of a record.
func sequence(line []byte) uint64 {
	_, rest, _ := bytes.Cut(line, []byte{','})
	number, _, _ := bytes.Cut(rest, []byte{','})
	n, _ := strconv.ParseUint(string(number), 10, 64)
	return n
}
