package session_test

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/session"
)

// deadline ends a test that hangs. No test depends on its length.
const deadline = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// socketPair returns the two ends of a connection with a buffer, as a port has.
func socketPair(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "channel")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() {
		conns[0].Close()
		conns[1].Close()
	})
	return conns[0], conns[1]
}

// dial starts an agent in this process and a session with it. When the test ends, the
// session is closed and the agent must end, and with them every goroutine.
func dial(t testing.TB) *session.Session {
	t.Helper()
	before := goroutines()
	host, guest := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- agent.Serve(guest) }()
	s, err := session.Dial(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("the agent ended with %v", err)
			}
		case <-time.After(deadline):
			t.Errorf("the agent did not end with its channel:\n%s", stacks())
		}
		checkLeaks(t, before)
	})
	return s
}

// ours are the packages whose goroutines must end.
var ours = []string{"stile/internal/session.", "stile/images/agent.", "yamux."}

func goroutines() int {
	n := 0
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		for _, pkg := range ours {
			if strings.Contains(stack, pkg) && !strings.Contains(stack, "testing.tRunner") {
				n++
				break
			}
		}
	}
	return n
}

func checkLeaks(t testing.TB, before int) {
	t.Helper()
	for end := time.Now().Add(deadline); goroutines() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d goroutines more than before:\n%s", goroutines()-before, stacks())
			return
		}
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// random returns a reader of size random bytes, quick and the same for no two calls.
func random(size int64) io.Reader {
	block := make([]byte, 1<<20)
	rand.Read(block)
	return io.LimitReader(&repeated{block: block}, size)
}

type repeated struct {
	block []byte
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % (len(r.block) - 1) // no period that a buffer's size divides
	return n, nil
}
