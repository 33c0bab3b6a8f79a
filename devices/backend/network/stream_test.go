package network

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
)

// loop is a network that sends everything back.
type loop struct {
	frames     chan []byte
	interrupts chan struct{}
	offloads   chan Offload
}

func (l *loop) Queues() []Queue             { return []Queue{l} }
func (l *loop) Offloads() Offload           { return Csum }
func (l *loop) MTU() int                    { return DefaultMTU }
func (l *loop) SetActive(int) error         { return nil }
func (l *loop) SetOffloads(o Offload) error { l.offloads <- o; return nil }
func (l *loop) Close() error                { return nil }
func (l *loop) Interrupt()                  { l.interrupts <- struct{}{} }

func (l *loop) Send(pieces [][]byte) error {
	l.frames <- bytes.Join(pieces, nil)
	return nil
}

func (l *loop) Receive(frame []byte, _ bool) (int, error) {
	select {
	case f := <-l.frames:
		return copy(frame, f), nil
	case <-l.interrupts:
		return 0, ErrInterrupted
	}
}

func TestStream(t *testing.T) {
	card, far := net.Pipe()
	l := &loop{make(chan []byte, 10), make(chan struct{}, 10), make(chan Offload, 1)}
	served := make(chan error, 1)
	go func() { served <- Serve(far, l) }()
	s := NewStream(card, Csum|TSO4)
	if err := s.SetOffloads(Csum | TSO4); err != nil {
		t.Fatal(err)
	}
	if got := <-l.offloads; got != Csum|TSO4 {
		t.Errorf("offloads %#x", got)
	}
	q := s.Queues()[0]
	if n, err := q.Receive(nil, false); n != 0 || err != nil {
		t.Errorf("of nothing %d bytes came, %v", n, err)
	}
	frame := make([]byte, MaxFrame)
	for _, size := range []int{MinFrame, 1514, MaxFrame} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if err := q.Send([][]byte{sent[:3], sent[3:]}); err != nil {
			t.Fatal(err)
		}
		if n, err := q.Receive(frame, true); err != nil || !bytes.Equal(frame[:n], sent) {
			t.Errorf("of %d bytes %d came back: %v", size, n, err)
		}
	}
	q.Interrupt()
	if _, err := q.Receive(frame, true); !errors.Is(err, ErrInterrupted) {
		t.Errorf("interrupted: %v", err)
	}
	if err := q.Send([][]byte{make([]byte, MinFrame)}); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Receive(frame, true); n != MinFrame || err != nil {
		t.Errorf("after an interrupt: %d bytes, %v", n, err)
	}
	if err := q.Send([][]byte{make([]byte, MaxFrame+1)}); err == nil {
		t.Error("a frame that is too long was sent")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestStreamStuck: the other end takes nothing for a while. Frames are lost, the rest stays whole, and nobody waits for long.
func TestStreamStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card, far := net.Pipe()
		defer far.Close()
		s := NewStream(card, 0)
		defer s.Close()
		q := s.Queues()[0]
		frame := func(b byte) [][]byte { return [][]byte{bytes.Repeat([]byte{b}, MinFrame)} }
		part := make([]byte, lengthSize+1)
		go func() { _, _ = io.ReadFull(far, part) }() // and no more
		if err := q.Send(frame(1)); err != nil {
			t.Errorf("a frame of which part was taken: %v", err)
		}
		if err := q.Send(frame(2)); err == nil {
			t.Error("a frame behind one that is not taken was sent")
		}
		if err := s.SetOffloads(0); err == nil {
			t.Error("so were offloads")
		}
		got := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(far)
			got <- all
		}()
		if err := q.Send(frame(3)); err != nil {
			t.Error(err)
		}
		s.Close()
		want := slices.Concat([]byte{0, 0, 0, MinFrame}, frame(1)[0], []byte{0, 0, 0, MinFrame}, frame(3)[0])
		if all := append(part, <-got...); !bytes.Equal(all, want) {
			t.Errorf("what came:\n%x, want\n%x", all, want)
		}
	})
}

// FuzzServe gives a network the bytes of a card that lies.
func FuzzServe(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5, 1, 2, 3, 4, 5})
	f.Add(append([]byte{0, 0, 0, MinFrame}, make([]byte, MinFrame)...))
	f.Add([]byte{0x80, 0, 0, 3, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		card, far := net.Pipe()
		l := &loop{make(chan []byte, len(wire)+1), make(chan struct{}, 1), make(chan Offload, len(wire)+1)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Serve(far, l)
		}()
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := card.Read(buf); err != nil {
					return
				}
			}
		}()
		card.Write(wire) // fails when the far end has refused
		card.Close()
		<-done
	})
}
