package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/session"
)

// listen serves one connection at a time with handle, until the end of the test.
func listen(t *testing.T, network, address string, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func dialIn(t *testing.T, s *session.Session, network, address string) net.Conn {
	t.Helper()
	c, err := s.Dial(testContext(t), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDialEcho sends more than any buffer holds, closes its half, and gets all of it back.
func TestDialEcho(t *testing.T) {
	const size = 5 << 20
	echo := func(c net.Conn) {
		var all bytes.Buffer
		if _, err := all.ReadFrom(c); err == nil {
			all.WriteTo(c)
		}
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			address := listen(t, network, address, echo)
			c := dialIn(t, dial(t), network, address)
			if c.RemoteAddr().String() != address || c.RemoteAddr().Network() != network {
				t.Errorf("remote address %v of %s", c.RemoteAddr(), address)
			}
			sent, got := sha256.New(), sha256.New()
			if _, err := io.Copy(c, io.TeeReader(random(size), sent)); err != nil {
				t.Fatal(err)
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(got, c); n != size || err != nil {
				t.Fatalf("%d of %d bytes came back: %v", n, size, err)
			}
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Error("what came back differs")
			}
		})
	}
}

func TestDialDatagrams(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append(buf[:n:n], '!'), from)
		}
	}()
	c := dialIn(t, dial(t), "udp", server.LocalAddr().String())
	buf := make([]byte, 65536)
	for _, text := range []string{"one", "", strings.Repeat("x", 9000)} {
		if n, err := io.WriteString(c, text); n != len(text) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != text+"!" {
			t.Fatalf("of %d bytes came back %d: %v", len(text), n, err)
		}
	}
	if _, err := c.Write(make([]byte, 65536)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram of 64 KiB: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of nothing: %v", err)
	}
}

func TestDialRefused(t *testing.T) {
	s := dial(t)
	for _, test := range [][2]string{
		{"tcp", "127.0.0.1:1"}, {"unix", "/no/such/socket"}, {"tcp", "nonsense"}, {"tcp", ""}, {"sctp", "127.0.0.1:1"}, {"unix", "a\x00b"},
	} {
		if c, err := s.Dial(testContext(t), test[0], test[1]); err == nil {
			c.Close()
			t.Errorf("%v was connected to", test)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Dial(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("without a context: %v", err)
	}
}

// TestDialClose checks that each end learns of the other's.
func TestDialClose(t *testing.T) {
	s := dial(t)
	t.Run("here", func(t *testing.T) {
		ended := make(chan error, 1)
		c := dialIn(t, s, "tcp", listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
			data, err := io.ReadAll(c)
			if string(data) != "last words" {
				err = errors.New("got " + string(data))
			}
			for err == nil { // nobody reads it: a reset must come
				_, err = c.Write(make([]byte, 1<<16))
			}
			ended <- err
		}))
		io.WriteString(c, "last words")
		c.Close()
		if err := <-ended; !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("there", func(t *testing.T) {
		c := dialIn(t, s, "tcp", listen(t, "tcp", "127.0.0.1:0", func(net.Conn) {}))
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %d, %v", n, err)
		}
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 1<<16))
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("agent", func(t *testing.T) {
		block := make(chan struct{})
		defer close(block)
		c := dialIn(t, s, "tcp", listen(t, "tcp", "127.0.0.1:0", func(net.Conn) { <-block }))
		s.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, session.ErrAgentLost) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestListen(t *testing.T) {
	s := dial(t)
	path := filepath.Join(t.TempDir(), "socket")
	l, err := s.Listen(testContext(t), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var _ net.Listener = l
	for range 3 {
		inside, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer inside.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(inside, "to the host")
		inside.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "to the host" {
			t.Errorf("%q, %v", got, err)
		}
		io.WriteString(c, "to the guest")
		c.Close()
		if got, err := io.ReadAll(inside); err != nil || string(got) != "to the guest" {
			t.Errorf("%q, %v", got, err)
		}
	}
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	for _, test := range [][2]string{{"udp", "127.0.0.1:0"}, {"unix", "/no/such/folder/socket"}, {"tcp", "nonsense"}} {
		if l, err := s.Listen(testContext(t), test[0], test[1]); err == nil {
			l.Close()
			t.Errorf("listens at %v", test)
		}
	}
}
