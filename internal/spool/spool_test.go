package spool

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// gate is a writer that stands still until it is opened.
type gate struct {
	mu   sync.Mutex // held: closed
	text bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

// TestStalled: whatever is written, Write and Close return, memory is bounded, and who reads at last is told what is missing.
func TestStalled(t *testing.T) {
	g := &gate{}
	g.mu.Lock()
	s := newSpool(g, 300*time.Millisecond)
	const block = 1 << 20
	for range 3 * room / block {
		if n, err := s.Write(make([]byte, block)); n != block || err != nil {
			t.Fatal(n, err)
		}
	}
	s.mu.Lock()
	if held := len(s.buf) + s.taken; held > room {
		t.Errorf("%d bytes wait", held)
	}
	s.mu.Unlock()
	g.mu.Unlock()
	s.Flush()
	io.WriteString(s, "end")
	s.Close()
	text := g.text.String()
	if at := strings.Index(text, "\r\n[8388608 bytes are left out here"); at != room || !strings.HasSuffix(text, "]\r\nend") {
		t.Errorf("%d bytes, the notice at %d", len(text), at)
	}
}

// TestCloseOfStalled: Close does not wait for a writer that never returns.
func TestCloseOfStalled(t *testing.T) {
	r, w := io.Pipe()
	s := newSpool(w, 10*time.Millisecond)
	io.WriteString(s, "text")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.Close()
		s.Write(make([]byte, 2*room)) // is dropped
		s.Close()
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for a writer that has stalled")
	}
	r.Close()
	<-s.done
}

// slow takes a while for each write.
type slow struct {
	n   int
	sum byte
}

func (w *slow) Write(p []byte) (int, error) {
	time.Sleep(100 * time.Microsecond)
	w.n += len(p)
	for _, b := range p {
		w.sum = w.sum*31 + b
	}
	return len(p), nil
}

// TestSlow: a slow writer loses nothing.
func TestSlow(t *testing.T) {
	w, want := &slow{}, slow{}
	s := New(w)
	block := make([]byte, 100<<10)
	for range 3 * room / len(block) {
		for i := range block {
			block[i] = byte(rand.Uint32())
		}
		s.Write(block)
		want.n += len(block)
		for _, b := range block {
			want.sum = want.sum*31 + b
		}
	}
	s.Close()
	if *w != want {
		t.Errorf("got %+v, want %+v", *w, want)
	}
}
