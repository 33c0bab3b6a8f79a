package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// machine is what the host can set up and power off.
type machine interface {
	setup(*agentproto.Setup) error
	// powerDown ends the machine. It returns only where there is none to end.
	powerDown(reboot bool)
	// catch is deferred in each goroutine.
	catch()
}

// server answers one host.
type server struct {
	mux      *yamux.Session
	machine  machine
	children *children
	falling  atomic.Bool // the host has asked for the machine's end

	mu       sync.Mutex
	set      bool                        // Setup came
	env      []string                    // what commands start from
	attached map[slot]chan *yamux.Stream // streams that wait for their command, or the reverse

	listeners map[uint64]net.Listener
}

// slot is a standard stream of a command to come.
type slot struct {
	id     uint64
	stream agentproto.Stream
}

// maxSlots bounds the streams that wait for a command.
const maxSlots = 4096

// defaultEnv is what commands start from before Setup says otherwise.
func defaultEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/bbin", "HOME=/root"}
}

// serve says hello and answers requests until the channel ends, which is no error, or breaks.
// Commands that still run then are killed.
func serve(conn io.ReadWriteCloser, m machine, c *children, hello *agentproto.Hello) error {
	mux, err := yamux.Server(conn, agentproto.MuxConfig())
	if err != nil {
		return err
	}
	defer mux.Close()
	s := &server{mux: mux, machine: m, children: c, env: defaultEnv(), attached: make(map[slot]chan *yamux.Stream), listeners: make(map[uint64]net.Listener)}
	if err := s.greet(hello); isEnd(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("greet the host: %w", err)
	}
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		stream, err := mux.AcceptStream()
		if isEnd(err) {
			return nil
		}
		if err != nil {
			return err
		}
		handlers.Go(func() {
			defer m.catch()
			s.handle(stream)
		})
	}
}

// isEnd tells whether an error of the channel only says that the other end is gone.
func isEnd(err error) bool {
	for _, end := range []error{io.EOF, yamux.ErrSessionShutdown, unix.EPIPE, unix.ECONNRESET, os.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

func (s *server) greet(hello *agentproto.Hello) error {
	stream, err := s.mux.OpenStream()
	if err != nil {
		return err
	}
	defer stream.Close()
	return agentproto.WriteMessage(stream, agentproto.MaxReply, hello)
}

// handle answers the request that a stream starts with. It closes the stream, except one that waits for its command.
func (s *server) handle(stream *yamux.Stream) {
	req, err := agentproto.ReadRequest(stream)
	if err != nil {
		refuse(stream, agentproto.Failed, err)
		stream.Close()
		return
	}
	if req.Attach != nil {
		s.attach(req.Attach, stream)
		return
	}
	defer stream.Close()
	switch {
	case req.Setup != nil:
		answer(stream, s.setup(req.Setup))
	case req.Exec != nil:
		s.exec(stream, req.Exec)
	case req.Dial != nil:
		s.dial(stream, req.Dial)
	case req.Listen != nil:
		s.listen(stream, req.Listen)
	case req.Accept != nil:
		s.accept(stream, req.Accept)
	case req.Push != nil:
		answer(stream, push(req.Push, stream))
	case req.Pull != nil:
		pull(req.Pull, stream)
	case req.Kmsg != nil:
		kmsg("/dev/kmsg", req.Kmsg, stream)
	case req.Power != nil:
		answer(stream, nil)
		s.falling.Store(true)
		s.machine.powerDown(req.Power.Reboot)
		go s.mux.Close()
	}
}

// hold keeps from the host what becomes of commands because the machine goes down: their ends are not their own, and a guest that
// reboots begins them anew.
func (s *server) hold() {
	if s.falling.Load() {
		<-s.mux.CloseChan()
	}
}

func (s *server) setup(setup *agentproto.Setup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set {
		return errors.New("the machine was set up before")
	}
	s.set = true
	if err := s.machine.setup(setup); err != nil {
		return err
	}
	s.env = mergeEnv(s.env, setup.Env)
	return nil
}

// slotFor returns the channel on which a stream meets its command, nil when there are too many.
func (s *server) slotFor(at slot) chan *yamux.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := s.attached[at]
	if ch == nil && len(s.attached) < maxSlots {
		ch = make(chan *yamux.Stream, 1)
		s.attached[at] = ch
	}
	return ch
}

func (s *server) attach(a *agentproto.Attach, stream *yamux.Stream) {
	select {
	case s.slotFor(slot{a.ID, a.Stream}) <- stream:
	default: // no slot, or one that is taken
		stream.Close()
	}
}

// claim returns a stream of a command, when it has come.
func (s *server) claim(id uint64, name agentproto.Stream) (*yamux.Stream, error) {
	at := slot{id, name}
	ch := s.slotFor(at)
	if ch == nil {
		return nil, errors.New("too many streams wait for their commands")
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.attached, at)
	}()
	select {
	case stream := <-ch:
		return stream, nil
	case <-s.mux.CloseChan():
		return nil, yamux.ErrSessionShutdown
	}
}

// answer writes an empty Reply, or one that says what failed.
func answer(w io.Writer, err error) {
	if err != nil {
		refuse(w, agentproto.Failed, err)
		return
	}
	agentproto.WriteMessage(w, agentproto.MaxReply, &agentproto.Reply{})
}

// maxReason bounds an error's text, in bytes: it may quote a request, which may be long.
const maxReason = 2048

// refuse writes a Reply with an error. An *agentproto.Error is kept as it is; of any other, what the kernel said is added.
func refuse(w io.Writer, kind agentproto.ErrorKind, err error) {
	var known *agentproto.Error
	if !errors.As(err, &known) {
		known = describe(kind, err)
	}
	reply := *known
	reply.Message = err.Error()
	if len(reply.Message) > maxReason {
		reply.Message = reply.Message[:maxReason] + "…"
	}
	if len(reply.Path) > maxReason {
		reply.Op, reply.Path = "", ""
	}
	agentproto.WriteMessage(w, agentproto.MaxReply, &agentproto.Reply{Error: &reply})
}

// describe takes an error apart: what errors.Is and errors.As are to find in it at the other end.
func describe(kind agentproto.ErrorKind, err error) *agentproto.Error {
	e := &agentproto.Error{Kind: kind}
	errors.As(err, &e.Errno)
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		e.Op, e.Path = path.Op, path.Path
	}
	return e
}
