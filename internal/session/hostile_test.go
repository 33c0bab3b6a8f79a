package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// header makes a yamux frame's header.
func header(kind byte, flags uint16, stream, length uint32) []byte {
	return []byte{0, kind, byte(flags >> 8), byte(flags),
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream),
		byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}
}

type readOnly struct{ io.Reader }

func (readOnly) Write(p []byte) (int, error) { return len(p), nil }
func (readOnly) Close() error                { return nil }

func TestGuard(t *testing.T) {
	hello := header(frameWindowUpdate, flagSYN, 2, 0)
	data := append(header(frameData, 0, 2, 5), "12345"...)
	tests := []struct {
		name string
		wire [][]byte
		ok   bool
	}{
		{"hello and data", [][]byte{hello, data, data}, true},
		{"payload that looks like a ping", [][]byte{hello, append(header(frameData, 0, 2, 12), header(2, flagSYN, 0, 1)...), data}, true},
		{"ping", [][]byte{hello, header(2, flagSYN, 0, 1)}, false},
		{"ping answer", [][]byte{hello, header(2, 2, 0, 1)}, false},
		{"second stream", [][]byte{hello, data, header(frameWindowUpdate, flagSYN, 4, 0)}, false},
		{"second stream with data", [][]byte{hello, header(frameData, flagSYN, 4, 0)}, false},
		{"unknown type", [][]byte{header(9, 0, 0, 0)}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wire := bytes.Join(test.wire, nil)
			for _, chunk := range []int{1, 5, 12, 13, 4096} { // however it is cut
				g := &guard{ReadWriteCloser: readOnly{bytes.NewReader(wire)}, dropped: &dropped{}}
				got, err := io.ReadAll(struct{ io.Reader }{limitedReads{g, chunk}})
				if (err == nil) != test.ok {
					t.Fatalf("in pieces of %d: %v", chunk, err)
				}
				if test.ok && !bytes.Equal(got, wire) {
					t.Fatalf("in pieces of %d the bytes changed", chunk)
				}
			}
		})
	}
}

type limitedReads struct {
	r   io.Reader
	max int
}

func (l limitedReads) Read(p []byte) (int, error) { return l.r.Read(p[:min(len(p), l.max)]) }

// liar is an agent that says hello and then what a test has it say.
func liar(t *testing.T, answer func(*yamux.Stream, *agentproto.Request)) *Session {
	t.Helper()
	host, guest := net.Pipe()
	mux, err := yamux.Server(guest, agentproto.MuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		stream, err := mux.OpenStream()
		if err != nil {
			return
		}
		agentproto.WriteMessage(stream, agentproto.MaxReply, &agentproto.Hello{Version: agentproto.Version})
		stream.Close()
		for {
			stream, err := mux.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				if req, err := agentproto.ReadRequest(stream); err == nil {
					answer(stream, req)
				}
			}()
		}
	}()
	s, err := Dial(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		mux.Close()
	})
	return s
}

func reply(stream *yamux.Stream, r agentproto.Reply) {
	agentproto.WriteMessage(stream, agentproto.MaxReply, r)
}

// TestSilentAgent checks that nothing waits longer than its context.
func TestSilentAgent(t *testing.T) {
	s := liar(t, func(*yamux.Stream, *agentproto.Request) {})
	calls := map[string]func(context.Context) error{
		"setup": func(ctx context.Context) error { return s.Setup(ctx, &agentproto.Setup{}) },
		"power": s.PowerOff,
		"start": func(ctx context.Context) error {
			_, err := s.Start(ctx, &Cmd{Args: []string{"x"}, Stdin: strings.NewReader("x"), Stdout: io.Discard})
			return err
		},
		"push": func(ctx context.Context) error {
			return s.Push(ctx, "/x", 0, 10<<20, strings.NewReader(strings.Repeat("x", 10<<20)))
		},
		"pull": func(ctx context.Context) error {
			_, err := s.Pull(ctx, "/x", io.Discard)
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestNeverExits checks that Wait ends after WaitDelay when the agent ignores the kill.
func TestNeverExits(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Exec != nil {
			reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	p, err := s.Start(ctx, &Cmd{Args: []string{"x"}, Stdout: io.Discard, WaitDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}

// TestExitWithoutEnd has an agent that tells the status and never ends the output.
func TestExitWithoutEnd(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Attach != nil {
			io.WriteString(stream, "output")
		}
		if req.Exec != nil {
			reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
			reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: 5}})
		}
	})
	p, err := s.Start(t.Context(), &Cmd{Args: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err != nil || status.Code != 5 {
		t.Errorf("Wait: %v, %v", status, err)
	}
}

func TestWrongReplies(t *testing.T) {
	answers := map[string]func(*yamux.Stream){
		"nothing started": func(s *yamux.Stream) { reply(s, agentproto.Reply{}) },
		"broken off":      func(s *yamux.Stream) { s.Close() },
		"garbage":         func(s *yamux.Stream) { io.WriteString(s, "\x00\x00\x00\x03{x}") },
		"endless message": func(s *yamux.Stream) { io.WriteString(s, "\x7f\xff\xff\xff") },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
				if req.Exec != nil {
					answer(stream)
				}
			})
			if _, err := s.Start(t.Context(), &Cmd{Args: []string{"x"}}); err == nil {
				t.Error("Start succeeded")
			}
		})
	}
}

func FuzzGuard(f *testing.F) {
	f.Add(header(frameWindowUpdate, flagSYN, 2, 0), 3)
	f.Add(append(header(frameData, 0, 2, 5), "12345"...), 1)
	f.Fuzz(func(t *testing.T, wire []byte, chunk int) {
		if chunk <= 0 {
			chunk = 1
		}
		whole := &guard{ReadWriteCloser: readOnly{bytes.NewReader(wire)}, dropped: &dropped{}}
		_, wholeErr := io.ReadAll(whole)
		cut := &guard{ReadWriteCloser: readOnly{bytes.NewReader(wire)}, dropped: &dropped{}}
		_, cutErr := io.ReadAll(limitedReads{cut, chunk})
		if (wholeErr == nil) != (cutErr == nil) {
			t.Errorf("whole: %v; in pieces of %d: %v", wholeErr, chunk, cutErr)
		}
	})
}

// FuzzDial has a guest that sends anything.
func FuzzDial(f *testing.F) {
	f.Add(append(header(frameWindowUpdate, flagSYN, 2, 0), header(frameData, 0, 2, 0)...))
	f.Fuzz(func(t *testing.T, wire []byte) {
		host, guest := net.Pipe()
		go io.Copy(io.Discard, guest)
		go func() {
			guest.Write(wire)
			guest.Close()
		}()
		if s, err := Dial(t.Context(), host); err == nil {
			s.Start(t.Context(), &Cmd{Args: []string{"x"}})
			s.Close()
		}
	})
}

// TestPushOfBrokenSource: a source whose read fails ends the push, with its error, whether or not its size is known.
func TestPushOfBrokenSource(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		io.Copy(io.Discard, stream)
		reply(stream, agentproto.Reply{Error: &agentproto.Error{Message: "cut short"}})
	})
	for _, size := range []int64{-1, 100} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := s.Push(ctx, "/x", 0, size, io.MultiReader(strings.NewReader("some"), iotest.ErrReader(syscall.EISDIR)))
		cancel()
		if !errors.Is(err, syscall.EISDIR) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

// TestEndlessFile: a guest's file takes no more than the limit.
func TestEndlessFile(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		reply(stream, agentproto.Reply{File: &agentproto.File{Size: 1}})
		for {
			if _, err := stream.Write(append([]byte{0, 0, 0x40, 0}, make([]byte, 0x4000)...)); err != nil {
				return
			}
		}
	})
	var got bytes.Buffer
	if _, err := s.PullSome(t.Context(), "/x", &got, 1<<20); !errors.Is(err, agentproto.ErrTooLong) || got.Len() > 1<<20 {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
