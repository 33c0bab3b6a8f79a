package agentproto

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestChunks(t *testing.T) {
	for _, n := range []int{0, 1, maxChunk, maxChunk + 1, 3*maxChunk + 7} {
		data := bytes.Repeat([]byte("x"), n)
		var wire, got bytes.Buffer
		if err := WriteChunks(&wire, iotest.OneByteReader(bytes.NewReader(data[:min(n, 9)]))); err != nil {
			t.Fatal(err)
		}
		wire.Reset()
		if err := WriteChunks(&wire, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		wire.WriteString("rest")
		if err := ReadChunks(&got, &wire, int64(n)); err != nil || !bytes.Equal(got.Bytes(), data) || wire.String() != "rest" {
			t.Errorf("%d bytes: %d, %v, then %q", n, got.Len(), err, &wire)
		}
	}
	var wire bytes.Buffer
	if err := WriteChunks(&wire, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrClosedPipe))); !errors.As(err, new(*ReadError)) || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that fails: %v", err)
	}
	if err := ReadChunks(io.Discard, &wire, 9); err != io.ErrUnexpectedEOF {
		t.Errorf("without an end: %v", err)
	}
	if err := ReadChunks(io.Discard, strings.NewReader("\x00\x00\x00\x02xx\x00\x00\x00\x00"), 1); err != ErrTooLong {
		t.Errorf("more than the limit: %v", err)
	}
}

func FuzzReadChunks(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02xx\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var got bytes.Buffer
		if err := ReadChunks(&got, bytes.NewReader(wire), 100); got.Len() > 100 {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
	})
}
