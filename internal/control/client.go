package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	hiddenPrefix = ".new-"
	// hiddenAge is after which time a hidden socket is nobody's: it is hidden for microseconds.
	hiddenAge = time.Minute
	// infoLimit is how long a VM may take to say what it is.
	infoLimit = 5 * time.Second
)

// NoVMError says that no VM of that ID is running.
type NoVMError struct{ ID string }

// ErrEnded says that a VM ended before it answered.
var ErrEnded = errors.New("the VM ended before it answered")

func (e *NoVMError) Error() string {
	return fmt.Sprintf("no VM %q is running; stile ps shows those that are", e.ID)
}

// Attach sends a request to the VM id and returns its reply, and the connection as the stream
// that a request that attaches is followed by. The caller closes it.
func Attach(ctx context.Context, id string, r *Request) (*Reply, *net.UnixConn, error) {
	path, err := Path(id)
	if err != nil {
		return nil, nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		if gone(err) {
			err = &NoVMError{id}
		}
		return nil, nil, err
	}
	reply, err := Exchange(ctx, conn, r)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return reply, conn.(*net.UnixConn), nil
}

// Call is Attach without what follows the reply.
func Call(ctx context.Context, id string, r *Request) (*Reply, error) {
	reply, conn, err := Attach(ctx, id, r)
	if err != nil {
		return nil, err
	}
	return reply, conn.Close()
}

// Exchange sends a request over conn and reads the reply. What the VM says against the request
// is the error. conn is the caller's to close; where ctx ends first, it is closed.
func Exchange(ctx context.Context, conn io.ReadWriteCloser, r *Request) (*Reply, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reply := new(Reply)
	err := writeMessage(conn, r)
	if err == nil {
		err = readMessage(conn, reply)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return nil, ErrEnded
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	case reply.Error != "":
		return nil, errors.New(reply.Error)
	}
	return reply, nil
}

// gone reports whether nobody listens on a socket.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// IDs returns the IDs of the VMs that have sockets, sorted. Not all of them may be running.
func IDs() ([]string, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	return ids(dir)
}

func ids(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), SocketSuffix); ok && CheckID(id) == nil {
			list = append(list, id)
		}
	}
	return list, nil
}

// List asks all running VMs what they are, and returns them with the oldest first. One that
// does not answer in time has no more than its ID.
func List(ctx context.Context) ([]Info, error) {
	list, err := IDs()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, infoLimit)
	defer cancel()
	infos := make([]Info, len(list))
	var asked sync.WaitGroup
	for i, id := range list {
		asked.Go(func() {
			reply, err := Call(ctx, id, &Request{Op: OpInfo})
			var none *NoVMError
			switch {
			case errors.As(err, &none):
			case err != nil || reply.Info == nil:
				infos[i] = Info{ID: id, State: Silent}
			default:
				infos[i] = *reply.Info
			}
		})
	}
	asked.Wait()
	infos = slices.DeleteFunc(infos, func(i Info) bool { return i.ID == "" })
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID)) })
	return infos, nil
}

// Find returns the one ID that begins with prefix.
func Find(prefix string) (string, error) {
	list, err := IDs()
	if err != nil {
		return "", err
	}
	return match(list, prefix)
}

func match(list []string, prefix string) (string, error) {
	if slices.Contains(list, prefix) {
		return prefix, nil
	}
	var found []string
	for _, id := range list {
		if prefix != "" && strings.HasPrefix(id, prefix) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", &NoVMError{prefix}
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%q is the beginning of several VMs' names: %s", prefix, strings.Join(found, ", "))
}

// sweep removes the sockets that nobody listens on.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // Serve meets the same fault
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil || info.Mode().Type() != os.ModeSocket {
			continue
		}
		if id, ok := strings.CutSuffix(e.Name(), VsockSuffix); ok {
			if _, err := os.Lstat(socketPath(dir, id)); errors.Is(err, os.ErrNotExist) {
				os.Remove(path) // a VM has its control socket first and last
			}
			continue
		}
		if strings.HasPrefix(e.Name(), hiddenPrefix) {
			if time.Since(info.ModTime()) > hiddenAge {
				os.Remove(path)
			}
			continue
		}
		if !strings.HasSuffix(e.Name(), SocketSuffix) {
			continue // somebody else's, such as one for a vsock port of the host
		}
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}
