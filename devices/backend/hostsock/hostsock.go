// Package hostsock lets UNIX sockets stand for the host's side of a virtio socket device, as other VMMs
// have it, so that the host needs neither vhost nor privileges:
//
//   - Who connects to the socket at PATH and writes "CONNECT 1234\n" is connected with port 1234 of
//     the guest: the answer is "OK 5678\n", with the host's port, and then comes the guest's
//     data. If nobody listens there, the connection ends.
//   - A guest that connects to port 1234 of the host reaches the socket at PATH_1234, where a
//     program of the host listens; it is refused where none does.
package hostsock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxGreeting bounds what comes before the data, in bytes with the newline: "CONNECT 4294967295".
	maxGreeting = 19
	// greetingLimit is how long a client may take to say which port it wants.
	greetingLimit = 10 * time.Second
	// maxGreetings bounds the clients that have not said so yet.
	maxGreetings = 64
)

// Connect connects conn, which is its own from then on, with a port of the guest, and calls
// opened when the guest has accepted. An error leaves conn to the caller.
type Connect func(port uint32, conn *net.UnixConn, opened func(hostPort uint32) error) error

// Socket is the socket at PATH, and those beside it. Its methods may be called concurrently.
type Socket struct {
	path     string
	listener *net.UnixListener
	workers  sync.WaitGroup

	mu     sync.Mutex
	conns  map[*net.UnixConn]bool // that have not said yet what they want
	closed bool
}

// Listen makes the socket at path, as Bind does. The caller closes what it returns.
func Listen(path string) (*Socket, error) {
	l, err := Bind(path)
	if err != nil {
		return nil, err
	}
	return &Socket{path: path, listener: l, conns: make(map[*net.UnixConn]bool)}, nil
}

// Bind listens at path on a socket that only its owner can connect to. One that nobody listens on
// any more is replaced.
func Bind(path string) (*net.UnixListener, error) {
	l, err := listen(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if !abandoned(path) {
			return nil, fmt.Errorf("vsock: %s is taken, by another VM's socket or by a file: name another path", path)
		}
		if err = os.Remove(path); err == nil {
			l, err = listen(path)
		}
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return l, nil
}

func listen(path string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// abandoned reports whether path is a socket that nobody listens on.
func abandoned(path string) bool {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// PortPath returns the path of the socket that stands for a port of the host, beside path.
func PortPath(path string, port uint32) string {
	return path + "_" + strconv.FormatUint(uint64(port), 10)
}

// Dial connects to what stands for a port of the host.
func (s *Socket) Dial(port uint32) (*net.UnixConn, error) { return Dial(PortPath(s.path, port)) }

// Dial connects to the socket at path. One that another user listens on, but for root, is refused: in a folder such as /tmp anybody
// may have put it there.
func Dial(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := CheckPeer(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("vsock: connect to %s: %w", path, err)
	}
	return conn, nil
}

// CheckPeer refuses a connection whose other end belongs neither to this user nor to root.
func CheckPeer(conn *net.UnixConn) error { return checkPeer(conn, os.Geteuid()) }

// checkPeer refuses a connection whose other end belongs neither to uid nor to root.
func checkPeer(conn *net.UnixConn, uid int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if peerErr != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", peerErr)
	}
	if int(peer.Uid) != uid && peer.Uid != 0 {
		return fmt.Errorf("the socket's other end belongs to user %d: %w", peer.Uid, os.ErrPermission)
	}
	return nil
}

// Serve takes clients until Close, each on a goroutine of its own. It returns at once.
func (s *Socket) Serve(connect Connect) {
	s.workers.Go(func() {
		for {
			conn, err := s.listener.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(100 * time.Millisecond) // out of descriptors, which passes
				continue
			}
			if CheckPeer(conn) != nil || !s.keep(conn) {
				conn.Close()
				continue
			}
			s.workers.Go(func() {
				defer s.forget(conn)
				if greet(conn, connect) != nil {
					conn.Close()
				}
			})
		}
	})
}

// keep notes a client, unless there are too many, and limits its time.
func (s *Socket) keep(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxGreetings || conn.SetReadDeadline(time.Now().Add(greetingLimit)) != nil {
		return false
	}
	s.conns[conn] = true
	return true
}

func (s *Socket) forget(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// greet finds out which port a client wants, and connects it.
func greet(conn *net.UnixConn, connect Connect) error {
	port, err := readGreeting(conn)
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return connect(port, conn, func(hostPort uint32) error {
		_, err := fmt.Fprintf(conn, "OK %d\n", hostPort)
		return err
	})
}

// readGreeting reads a greeting and no byte more.
func readGreeting(r interface{ Read([]byte) (int, error) }) (port uint32, err error) {
	var line [maxGreeting]byte
	for n := range line {
		if _, err := r.Read(line[n : n+1]); err != nil {
			return 0, err
		}
		if line[n] == '\n' {
			return parseGreeting(string(line[:n]))
		}
	}
	return 0, errors.New("vsock: a client did not say CONNECT and a port")
}

func parseGreeting(line string) (uint32, error) {
	word, number, _ := strings.Cut(line, " ")
	port, err := strconv.ParseUint(number, 10, 32)
	if !strings.EqualFold(word, "connect") || err != nil {
		return 0, fmt.Errorf("vsock: a client said %q, not CONNECT and a port", line)
	}
	return uint32(port), nil
}

// Close removes the socket and waits for those who serve it. What is connected is not its any
// more. Further calls do nothing.
func (s *Socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for conn := range s.conns {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // of a socket that is open
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.workers.Wait()
	return err
}
