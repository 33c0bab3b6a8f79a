package session

import (
	"errors"
	"io"
	"sync"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// sendInput copies r to the command's terminal until r ends or the command wants no more.
func sendInput(stream *yamux.Stream, r io.Reader) {
	// Without WriterTo: a reader's own one would not stop when the stream does.
	io.Copy(stream, struct{ io.Reader }{r})
	stream.Close()
}

// outputs copies a command's output streams to their writers.
type outputs struct {
	exited <-chan struct{} // closed when the command has ended
	group  sync.WaitGroup

	mu  sync.Mutex
	err error // the first writer's error
}

// Ender is a command's Stdout or Stderr that wants to know when nothing more will be written to it, which may be
// long before the command's end.
type Ender interface{ EndOutput() }

// copy starts to copy stream to w until the stream ends. When w fails, the command's next write fails too.
func (o *outputs) copy(name agentproto.Stream, w io.Writer, stream *yamux.Stream) {
	o.group.Go(func() {
		if ender, ok := w.(Ender); ok {
			defer ender.EndOutput()
		}
		from := &output{stream: stream, exited: o.exited, left: int(agentproto.MuxConfig().MaxStreamWindowSize)}
		_, err := io.Copy(struct{ io.Writer }{w}, from)
		if errors.Is(err, yamux.ErrTimeout) || errors.Is(err, yamux.ErrConnectionReset) {
			return // the stream's end, not the writer's failure
		}
		if err == nil {
			return
		}
		o.mu.Lock()
		if o.err == nil {
			o.err = &StreamError{name, err}
		}
		o.mu.Unlock()
		stream.Close()
		io.Copy(io.Discard, from)
	})
}

// output reads a command's output. What was written before the command's end is here when that is told, and no more than a
// window: an agent that goes on to send keeps nobody waiting.
type output struct {
	stream *yamux.Stream
	exited <-chan struct{}
	left   int // bytes that may come after exited
}

func (o *output) Read(p []byte) (int, error) {
	select {
	case <-o.exited:
		p = p[:min(len(p), o.left)]
		if len(p) == 0 {
			return 0, yamux.ErrTimeout
		}
		n, err := o.stream.Read(p)
		o.left -= n
		return n, err
	default:
		return o.stream.Read(p)
	}
}

// wait waits for all copies and returns the first error.
func (o *outputs) wait() error {
	o.group.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
