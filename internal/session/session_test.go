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
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

func TestHello(t *testing.T) {
	if hello := dial(t).Hello(); hello.Version != agentproto.Version || hello.Kernel == "" {
		t.Errorf("hello: %+v", hello)
	}
}

func TestDialEnds(t *testing.T) {
	t.Run("context", func(t *testing.T) {
		host, _ := socketPair(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := session.Dial(ctx, host); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v", err)
		}
	})
	t.Run("agent lost", func(t *testing.T) {
		host, guest := socketPair(t)
		guest.Close()
		if _, err := session.Dial(testContext(t), host); !errors.Is(err, session.ErrAgentLost) {
			t.Errorf("Dial: %v", err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		host, guest := socketPair(t)
		io.WriteString(guest, "this is no yamux frame at all")
		if _, err := session.Dial(testContext(t), host); err == nil {
			t.Error("Dial succeeded")
		}
	})
}

func TestSetup(t *testing.T) {
	s := dial(t)
	setup := &agentproto.Setup{Env: []string{"FROM_SETUP=yes"}}
	if err := s.Setup(testContext(t), setup); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	run(t, s, &session.Cmd{Args: []string{"sh", "-c", "echo $FROM_SETUP"}, Stdout: &out})
	if out.String() != "yes\n" {
		t.Errorf("environment: %q", out.String())
	}
	if err := s.Setup(testContext(t), setup); err == nil {
		t.Error("a second Setup succeeded")
	}
}

func TestSetupRefused(t *testing.T) {
	s := dial(t)
	for _, setup := range []agentproto.Setup{
		{Root: agentproto.Mount{Kind: agentproto.Mount9P, Source: "root"}}, // not as an ordinary process
		{Root: agentproto.Mount{Kind: agentproto.Mount9P}},
		{Root: agentproto.Mount{Kind: "nfs", Source: "x"}},
		{Mounts: []agentproto.Mount{{Kind: agentproto.MountTmpfs, Target: "relative"}}},
	} {
		if err := s.Setup(testContext(t), &setup); err == nil {
			t.Errorf("Setup(%+v) succeeded", setup)
		}
	}
}

func TestPushPull(t *testing.T) {
	const size = 5 << 20
	s := dial(t)
	ctx := testContext(t)
	path := filepath.Join(t.TempDir(), "new", "folder", "file")
	sent, got := sha256.New(), sha256.New()
	if err := s.Push(ctx, path, 0o750, size, io.TeeReader(random(size), sent)); err != nil {
		t.Fatal(err)
	}
	mode, err := s.Pull(ctx, path, got)
	if err != nil || mode != 0o750 {
		t.Fatalf("Pull: mode %v, %v", mode, err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("what was pulled differs from what was pushed")
	}
}

func TestPushPullFail(t *testing.T) {
	s := dial(t)
	ctx := testContext(t)
	dir := t.TempDir()
	if err := s.Push(ctx, dir, 0o644, 1<<20, random(1<<20)); err == nil {
		t.Error("a push onto a folder succeeded")
	}
	if err := s.Push(ctx, "/proc/no/such", 0o644, 64<<20, random(64<<20)); err == nil {
		t.Error("a push into /proc succeeded")
	}
	short := filepath.Join(dir, "short")
	if err := s.Push(ctx, short, 0o644, 100, strings.NewReader("50")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a push of too few bytes: %v", err)
	}
	var refused *agentproto.Error
	if _, err := s.Pull(ctx, short, io.Discard); !errors.As(err, &refused) || refused.Kind != agentproto.NotFound {
		t.Errorf("a pull of nothing: %v", err)
	}
	if _, err := s.Pull(ctx, dir, io.Discard); err == nil {
		t.Error("a pull of a folder succeeded")
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("failed pushes left %v", entries)
	}
}

func TestPowerOff(t *testing.T) {
	s := dial(t)
	if err := s.PowerOff(testContext(t)); err != nil {
		t.Error(err)
	}
	<-s.Done()
}

func TestAgentLost(t *testing.T) {
	s := dial(t)
	p, err := s.Start(testContext(t), &session.Cmd{Args: []string{"sleep", "1000"}, Stdin: strings.NewReader(""), Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := p.Wait(); !errors.Is(err, session.ErrAgentLost) {
		t.Errorf("Wait: %v", err)
	}
	awaitDeath(t, p.PID())
	if _, err := s.Start(testContext(t), &session.Cmd{Args: []string{"true"}}); !errors.Is(err, session.ErrAgentLost) {
		t.Errorf("Start: %v", err)
	}
	if err := s.Setup(testContext(t), &agentproto.Setup{}); !errors.Is(err, session.ErrAgentLost) {
		t.Errorf("Setup: %v", err)
	}
	if err := s.PowerOff(testContext(t)); err != nil {
		t.Errorf("PowerOff of a lost guest: %v", err)
	}
}

// TestAgentLostInWrite has the end of the channel found out by who writes, before who reads: it is told in the same words.
func TestAgentLostInWrite(t *testing.T) {
	for _, reason := range []error{io.ErrClosedPipe, &net.OpError{Op: "write", Err: syscall.EPIPE}} {
		host, guest := socketPair(t)
		go agent.Serve(guest)
		conn := &unwritable{ReadWriteCloser: host}
		s, err := session.Dial(testContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		conn.reason.Store(&reason)
		err = s.Setup(testContext(t), &agentproto.Setup{})
		if want := "set the guest up: " + session.ErrAgentLost.Error(); !errors.Is(err, session.ErrAgentLost) || err.Error() != want {
			t.Errorf("Setup: %v, want %s", err, want)
		}
	}
}

// unwritable is a channel that takes no more once it has a reason.
type unwritable struct {
	io.ReadWriteCloser
	reason atomic.Pointer[error]
}

func (u *unwritable) Write(b []byte) (int, error) {
	if reason := u.reason.Load(); reason != nil {
		return 0, *reason
	}
	return u.ReadWriteCloser.Write(b)
}
