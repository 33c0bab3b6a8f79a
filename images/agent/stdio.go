package agent

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// stdio joins a command's standard streams to the host's.
type stdio struct {
	child   [3]*os.File // the command's ends
	tty     *os.File    // the terminal's master, or nil
	input   *input      // nil without
	outputs []*pipe
	copies  sync.WaitGroup // the outputs' copies
}

// pipe is this process's end of a pipe or terminal, and the stream that it is joined to.
type pipe struct {
	file   *os.File
	stream *yamux.Stream
}

// pipeSize is the capacity of a pipe and of the buffer that empties it, in bytes: the
// fewer and bigger the pieces, the fewer turns between the command and the agent.
const pipeSize = 256 << 10

// openStdio opens a terminal, or a pipe for each stream and /dev/null for the others.
func openStdio(streams map[agentproto.Stream]*yamux.Stream, size *agentproto.Winsize) (*stdio, error) {
	s := new(stdio)
	if err := s.open(streams, size); err != nil {
		s.closeChildEnds()
		s.abandon()
		return nil, err
	}
	return s, nil
}

func (s *stdio) open(streams map[agentproto.Stream]*yamux.Stream, size *agentproto.Winsize) error {
	if size != nil {
		return s.openTTY(streams[agentproto.StreamTTY], *size)
	}
	if stream := streams[agentproto.Stdin]; stream != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.child[0], s.input = r, newInput(w, stream)
	}
	for name, fds := range map[agentproto.Stream][]int{agentproto.Stdout: {1}, agentproto.Stderr: {2}, agentproto.Output: {1, 2}} {
		stream := streams[name]
		if stream == nil {
			continue
		}
		r, w, err := openPipe()
		if err != nil {
			return err
		}
		s.outputs = append(s.outputs, &pipe{r, stream})
		for _, fd := range fds {
			s.child[fd] = w
		}
	}
	for i := range s.child {
		if s.child[i] != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		s.child[i] = null
	}
	return nil
}

// openPipe returns a pipe of pipeSize, where the user's allowance of big pipes has room for it.
func openPipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err == nil {
		control(w, func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) })
	}
	return r, w, err
}

func (s *stdio) openTTY(stream *yamux.Stream, size agentproto.Winsize) error {
	master, slave, err := openPTY(size)
	if err != nil {
		return err
	}
	s.tty, s.child[0] = master, slave
	s.outputs = []*pipe{{master, stream}}
	return nil
}

// childFiles returns the descriptors that become the command's 0, 1 and 2.
func (s *stdio) childFiles() []uintptr {
	if s.tty != nil {
		fd := s.child[0].Fd()
		return []uintptr{fd, fd, fd}
	}
	return []uintptr{s.child[0].Fd(), s.child[1].Fd(), s.child[2].Fd()}
}

func (s *stdio) closeChildEnds() {
	for _, f := range s.child {
		if f != nil {
			f.Close()
		}
	}
}

// abandon closes this process's ends, when no command came to be.
func (s *stdio) abandon() {
	if s.input != nil {
		s.input.abandon()
	}
	for _, o := range s.outputs {
		o.file.Close()
	}
}

// run starts to copy. catch is deferred in each goroutine.
func (s *stdio) run(catch func()) {
	if s.tty != nil {
		go func() {
			defer catch()
			typeInto(s.tty, s.outputs[0].stream)
		}()
	}
	if s.input != nil {
		go func() {
			defer catch()
			s.input.feed()
		}()
	}
	for _, o := range s.outputs {
		s.copies.Go(func() {
			defer catch()
			o.drain()
		})
		if s.tty == nil {
			go func() {
				defer catch()
				o.watch()
			}()
		}
	}
}

// drain copies the command's output to the host until it ends. Past the file's read
// deadline, which finish sets, it copies only what is already in the pipe.
func (p *pipe) drain() {
	_, err := io.CopyBuffer(struct{ io.Writer }{p.stream}, struct{ io.Reader }{p.file}, make([]byte, pipeSize))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.drainRest()
	}
	p.file.Close()
	p.stream.Close()
}

// drainRest copies what the command left in the pipe, and nothing that somebody
// else who still holds it writes later.
func (p *pipe) drainRest() {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		rest, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err != nil || rest <= 0 {
			return
		}
		buf := make([]byte, rest)
		for rest > 0 {
			n, err := unix.Read(int(fd), buf[:rest])
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				return
			}
			if _, err := p.stream.Write(buf[:n]); err != nil {
				return
			}
			rest -= n
		}
	})
}

// watch waits until the host closes its end, and breaks the pipe: nobody wants the output any more.
func (p *pipe) watch() {
	io.Copy(io.Discard, p.stream)
	p.file.Close()
}

// settleTTY is how long a terminal's reader goes on after the command's end: the bytes pass a
// queue in the kernel, after which the terminal reports its own end. A pipe has everything at once.
const settleTTY = time.Second

// finish is called when the command has ended. When it returns, everything that the
// command wrote has been sent, and the streams are closed. Processes that the command left
// behind may still hold its standard streams: their output is dropped.
func (s *stdio) finish() {
	var wait time.Duration
	if s.tty != nil {
		wait = settleTTY
	}
	for _, o := range s.outputs {
		o.file.SetReadDeadline(time.Now().Add(wait))
	}
	s.copies.Wait()
}

func (s *stdio) resize(size agentproto.Winsize) {
	if s.tty != nil {
		setSize(s.tty, size)
	}
}

// past returns a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }
