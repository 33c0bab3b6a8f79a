package agentproto

import (
	"bufio"
	"bytes"
	"io"
	"testing"
)

func TestDatagrams(t *testing.T) {
	sent := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), MaxDatagram)}
	var wire []byte
	for _, d := range sent {
		wire = AppendDatagram(wire, d)
	}
	r := bufio.NewReaderSize(bytes.NewReader(append(wire, 0, 5, 'c', 'u', 't')), DatagramRoom)
	buf := make([]byte, MaxDatagram)
	for _, want := range sent {
		if n, err := ReadDatagram(r, buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("%d of %d bytes: %v", n, len(want), err)
		}
	}
	if _, err := ReadDatagram(r, buf); err != io.ErrUnexpectedEOF {
		t.Errorf("a cut frame: %v", err)
	}
}

func FuzzReadDatagram(f *testing.F) {
	f.Add(AppendDatagram(nil, []byte("one")), 10)
	f.Add([]byte{0xff, 0xff, 1}, 0)
	f.Fuzz(func(t *testing.T, wire []byte, room int) {
		buf := make([]byte, max(0, min(room, MaxDatagram)))
		r := bufio.NewReaderSize(bytes.NewReader(wire), DatagramRoom)
		for {
			n, err := ReadDatagram(r, buf)
			if err != nil {
				return
			}
			if n > len(buf) {
				t.Fatalf("%d bytes in a buffer of %d", n, len(buf))
			}
		}
	})
}
