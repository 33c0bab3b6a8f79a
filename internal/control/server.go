package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConns bounds the connections to one VM.
	maxConns = 64
	// requestLimit is how long a client may take to say what it wants.
	requestLimit = 10 * time.Second
	// acceptPause is how long no connection is taken after one could not be.
	acceptPause = 100 * time.Millisecond
	// closeGrace is how long a viewer has to take the console's last words.
	closeGrace = 2 * time.Second
)

// Handler answers requests. Its methods may be called concurrently.
type Handler interface {
	// Handle answers r, which is valid. For a request that attaches it returns a function that
	// has the connection, after the reply was sent, until it returns; the connection is closed
	// then, and also when ctx ends.
	Handle(ctx context.Context, r *Request) (Reply, func(io.ReadWriter), error)
}

// Server is a VM's control socket.
type Server struct {
	handler  Handler
	listener *net.UnixListener
	path     string
	end      context.CancelFunc
	ctx      context.Context
	conns    sync.WaitGroup
	once     sync.Once
	err      error
}

// Serve makes the socket of the VM id and answers on it. Sockets that killed processes left
// are removed first. The caller closes the server.
func Serve(id string, h Handler) (*Server, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	sweep(dir)
	s := &Server{handler: h, path: socketPath(dir, id)}
	s.listener, err = Listen(s.path)
	if errors.Is(err, os.ErrExist) {
		err = errors.New("a VM of that name is running")
	}
	if err != nil {
		return nil, fmt.Errorf("control socket of %s: %w", id, err)
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.conns.Go(s.accept)
	return s, nil
}

// Listen listens on a UNIX socket that only its owner can connect to; its name must be free. The
// socket has a name of its own first: one that can be seen answers, and so who finds one that
// does not knows that its process is gone. The listener does not remove it.
func Listen(path string) (*net.UnixListener, error) {
	hidden := filepath.Join(filepath.Dir(path), hiddenPrefix+NewID())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(hidden, 0o600)
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, hidden, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close(), os.Remove(hidden))
	}
	return l, nil
}

// accept takes connections until the listener is closed.
func (s *Server) accept() {
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause) // out of descriptors, which passes
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		s.conns.Go(func() {
			defer func() { <-slots }()
			s.serve(conn)
		})
	}
}

// serve answers one connection.
func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	_ = conn.SetReadDeadline(time.Now().Add(requestLimit)) // of a socket that is open
	r := new(Request)
	err := readMessage(conn, r)
	if err == nil {
		err = r.Validate()
	}
	var reply Reply
	var stream func(io.ReadWriter)
	if err == nil {
		_ = conn.SetReadDeadline(time.Time{})
		reply, stream, err = s.handler.Handle(s.ctx, r)
	}
	if err != nil {
		reply, stream = Reply{Error: err.Error()}, nil
	}
	if reply.Info != nil {
		info := reply.Info.trim()
		reply.Info = &info
	}
	if writeMessage(conn, &reply) == nil && stream != nil {
		stream(conn)
	}
}

// Close removes the socket, lets streams that are at their end come to it, and ends all
// connections. Further calls return the first result.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.err = errors.Join(os.Remove(s.path), s.listener.Close())
		defer time.AfterFunc(closeGrace, s.end).Stop()
		s.conns.Wait()
		s.end()
	})
	return s.err
}
