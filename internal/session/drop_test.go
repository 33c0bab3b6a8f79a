package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// flood is an answer that never ends.
func flood(stream *yamux.Stream) {
	for block := make([]byte, 64<<10); ; {
		if _, err := stream.Write(block); err != nil {
			return
		}
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestFlood has an agent that goes on to send on every stream that this end has given up and ends none: neither what it sends nor the
// streams are kept.
func TestFlood(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Pull != nil {
			reply(stream, agentproto.Reply{Error: &agentproto.Error{Message: "no"}})
		} else {
			reply(stream, agentproto.Reply{})
		}
		flood(stream)
	})
	before := heap()
	const calls = 100
	for range calls {
		if _, err := s.Pull(t.Context(), "/x", io.Discard); err == nil {
			t.Fatal("Pull succeeded")
		}
		if err := s.Setup(t.Context(), &agentproto.Setup{}); err != nil {
			t.Fatal(err)
		}
	}
	// The agent's end stays: it never heard of a reset. Ours goes with its next frames.
	for end := time.Now().Add(10 * time.Second); s.mux.NumStreams() > 2 && time.Now().Before(end); {
		if err := s.Setup(t.Context(), &agentproto.Setup{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if n := s.mux.NumStreams(); n > 2 {
		t.Errorf("%d streams are left", n)
	}
	if grown := int64(heap()) - int64(before); grown > 2*calls/10<<20 { // with both ends in this process; it was 1 MiB a stream
		t.Errorf("%d calls hold %d MiB", 2*calls, grown>>20)
	}
}

// TestFloodAfterExit: the output that an agent sends after the command's end is bounded.
func TestFloodAfterExit(t *testing.T) {
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Attach != nil {
			flood(stream)
		}
		if req.Exec != nil {
			reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
			reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: 5}})
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	p, err := s.Start(ctx, &Cmd{Args: []string{"x"}, Stdout: slowWriter{}})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err != nil || status.Code != 5 {
		t.Errorf("Wait: %v, %v", status, err)
	}
}

// slowWriter takes so long that there is always more to read.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return len(p), nil
}

// TestSilentAgentIsEnded: an agent that answers nothing can't be given up without end.
func TestSilentAgentIsEnded(t *testing.T) {
	d := &dropped{}
	for range maxDropped {
		if err := d.add(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.add(); err == nil {
		t.Error("no bound")
	}
	d.closed(7)
	frame := make([]byte, frameHeader+1)
	if n := d.frames(frame); n != frameHeader || d.waiting.Load() {
		t.Errorf("%d bytes, more waiting: %v", n, d.waiting.Load())
	}
	if err := d.add(); err != nil {
		t.Errorf("one has gone: %v", err)
	}
}

// TestResetBetweenFrames: resets come between two frames however the guest cuts what it sends.
func TestResetBetweenFrames(t *testing.T) {
	var wire []byte
	for range 3 {
		wire = append(append(wire, header(frameData, 0, 1, 100)...), strings.Repeat("x", 100)...)
	}
	for _, chunk := range []int{1, 7, 12, 50, 112, 113, 4096} {
		d := &dropped{}
		g := &guard{ReadWriteCloser: readOnly{limitedReads{bytes.NewReader(wire), chunk}}, dropped: d}
		first := make([]byte, 20) // in the middle of a frame
		if _, err := io.ReadFull(g, first); err != nil {
			t.Fatal(err)
		}
		if err := d.add(); err != nil {
			t.Fatal(err)
		}
		d.closed(9)
		rest, err := io.ReadAll(g)
		want := append(append(append([]byte{}, wire[:112]...), header(frameWindowUpdate, flagRST, 9, 0)...), wire[112:]...)
		if got := append(first, rest...); err != nil || !bytes.Equal(got, want) {
			t.Errorf("in pieces of %d: %d bytes, %v", chunk, len(got), err)
		}
	}
}

// TestStalledWriter: a command's status is known although its output is not taken.
func TestStalledWriter(t *testing.T) {
	written := make(chan struct{})
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Attach != nil {
			io.WriteString(stream, "output")
			close(written)
		}
		if req.Exec != nil {
			<-written
			reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
			reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: 5}})
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer r.Close()
	p, err := s.Start(ctx, &Cmd{Args: []string{"x"}, Stdout: w, WaitDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	cancel()
	if status, err := p.Wait(); status.Code != 5 || !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v, %v", status, err)
	}
}

// TestEndBeforeOutput: the command's end is known while its output has still to be taken.
func TestEndBeforeOutput(t *testing.T) {
	taken := make(chan struct{})
	s := liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		if req.Exec == nil {
			return
		}
		reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
		reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: 5, Pending: true}})
		<-taken
		reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: 5}})
	})
	p, err := s.Start(t.Context(), &Cmd{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if status := p.Known(); status.Code != 5 {
		t.Errorf("known: %v", status)
	}
	select {
	case <-p.Done():
		t.Error("nothing is waited for")
	default:
	}
	close(taken)
	if status, err := p.Wait(); status.Code != 5 || err != nil {
		t.Errorf("Wait: %v, %v", status, err)
	}
}
