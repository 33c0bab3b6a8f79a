package main

import (
	"io"
	"testing"
)

// TestSharedInput: a reader that is closed while it waits takes nothing from the next one.
func TestSharedInput(t *testing.T) {
	r, w := io.Pipe()
	s := newSharedInput(r)
	buf := make([]byte, 2)
	for _, text := range []string{"abc", "def"} {
		first := s.reader()
		ended := make(chan error)
		go func() {
			_, err := first.Read(make([]byte, 10))
			ended <- err
		}()
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != io.EOF {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(w, text) }() // the reads below tell
		second, third := s.reader(), s.reader()
		if n, err := second.Read(buf); err != nil || string(buf[:n]) != text[:2] {
			t.Errorf("%q, %v", buf[:n], err)
		}
		second.Close()
		if n, err := second.Read(buf); err != io.EOF {
			t.Errorf("a closed one read %q, %v", buf[:n], err)
		}
		if n, err := third.Read(buf); err != nil || string(buf[:n]) != text[2:] {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	w.Close()
	if n, err := s.reader().Read(buf); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}
