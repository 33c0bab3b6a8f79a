package agent

import (
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// input joins the host's stream to a command's standard input, a pipe, and counts what the command reads. The pipe has one
// page at first: such a one can be written to if and only if all that is in it was read.
type input struct {
	stream *yamux.Stream

	file *os.File // the pipe's end for writing

	mu       sync.Mutex // held while file is written to
	closed   bool       // file is closed
	rest     int        // an end for reading, which keeps what was not read countable once file is closed; -1 for none
	written  int64      // bytes
	finished bool       // the command has ended
}

func newInput(file *os.File, stream *yamux.Stream) *input {
	control(file, func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, agentproto.FirstInput) })
	return &input{stream: stream, file: file, rest: -1}
}

// feed copies the host's bytes to the command, until they end or the command reads no more.
func (in *input) feed() {
	defer in.stream.Close() // tells the host that no more is wanted
	defer in.end()
	buf := make([]byte, pipeSize)
	n, err := in.stream.Read(buf[:agentproto.FirstInput])
	if n > 0 && (!in.write(buf[:n]) || !drained(in.file)) {
		return
	}
	if n > 0 {
		if _, err := in.stream.Write([]byte{0}); err != nil {
			return
		}
	}
	// Best effort: a user has an allowance of big pipes.
	control(in.file, func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) })
	for err == nil {
		if n, err = in.stream.Read(buf); !in.write(buf[:n]) {
			return
		}
	}
}

// write writes to the command, and reports whether it still reads.
func (in *input) write(p []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, err := in.file.Write(p)
	in.written += int64(n)
	return err == nil
}

// drained waits until the command has read all that is in the pipe of one page, and reports false where it reads no more.
func drained(file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	var events int16
	err = raw.Write(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		for {
			if _, err := unix.Poll(fds, 0); err != unix.EINTR {
				break
			}
		}
		events = fds[0].Revents
		return events != 0
	})
	return err == nil && events&unix.POLLERR == 0
}

// end closes the pipe, so that the command sees the end of its input. What it has not read by then stays countable.
func (in *input) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	if !in.finished {
		control(in.file, func(fd int) {
			// Without /proc, all counts as read.
			rest, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				in.rest = rest
			}
		})
	}
	in.file.Close()
	in.closed = true
}

// finish is called when the command has ended. It ends feed, and returns how many bytes the command has read.
func (in *input) finish() int64 {
	in.stream.SetReadDeadline(past())
	in.file.SetWriteDeadline(past()) // fails where it is closed
	in.mu.Lock()
	defer in.mu.Unlock()
	in.finished = true
	left := 0
	count := func(fd int) { left, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) }
	switch {
	case !in.closed:
		control(in.file, count)
	case in.rest >= 0:
		count(in.rest)
		unix.Close(in.rest)
		in.rest = -1
	}
	return max(0, in.written-int64(left))
}

// abandon closes the pipe, when no command came to be.
func (in *input) abandon() {
	in.finish()
	in.end()
}
