package share

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is tried and what is handled give the same answers, wherever a read begins and ends.
func TestTry(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", strings.Repeat("0123456789abcdef", 1000))
	put(t, dir+"/empty", "")
	g := newGuest(t, Config{Path: dir})
	for i, name := range []string{"f", "empty"} {
		g.walkTo(0, uint32(i+1), name)
		g.ok(message(tlopen, 1, uint32(i+1), uint32(unix.O_RDONLY)))
	}
	atHand := 0
	for _, req := range [][]byte{
		message(tread, 1, uint32(1), uint64(0), uint32(16000)),
		message(tread, 1, uint32(1), uint64(0), uint32(16)),
		message(tread, 1, uint32(1), uint64(4090), uint32(20)),
		message(tread, 1, uint32(1), uint64(15990), uint32(100)),
		message(tread, 1, uint32(1), uint64(16000), uint32(100)),
		message(tread, 1, uint32(1), uint64(1<<40), uint32(100)),
		message(tread, 1, uint32(1), uint64(1<<63), uint32(100)),
		message(tread, 1, uint32(2), uint64(0), uint32(100)),
		message(tread, 1, uint32(0), uint64(0), uint32(100)),
		message(tread, 1, uint32(9), uint64(0), uint32(100)),
		message(tread, 1, uint32(1), uint64(0))[:15],
		message(tgetattr, 1, uint32(1), uint64(0)),
		message(tclunk, 1, uint32(9)),
	} {
		tried, handled := make([]byte, 20000), make([]byte, 20000)
		c := Call{In: [][]byte{req}, Out: [][]byte{tried[:11], tried[11:100], tried[100:]}}
		g.Begin(&c)
		n, done := g.Try(&c)
		if done {
			atHand++
			g.Finish(&c)
			c = Call{In: [][]byte{req}, Out: [][]byte{handled}}
			g.Begin(&c)
		}
		m := g.Handle(&c) // also of what was tried in vain
		g.Finish(&c)
		if done && !bytes.Equal(tried[:n], handled[:m]) {
			t.Errorf("% x: tried % .40x (%d), handled % .40x (%d)", req, tried[:n], n, handled[:m], m)
		}
		if !done && (m < headerBytes || req[4] != tread) {
			t.Errorf("% x: tried in vain, and then %d bytes", req, m)
		}
	}
	if atHand < 6 { // whatever the file system: faults, names, attributes
		t.Errorf("%d calls were at hand", atHand)
	}
	// What may take its time is left alone.
	for _, req := range [][]byte{message(tfsync, 1, uint32(1), uint32(0)), message(twrite, 1, uint32(1), uint64(0), uint32(1), []byte{1}), message(tflush, 1, uint16(9))} {
		c := Call{In: [][]byte{req}, Out: [][]byte{make([]byte, 100)}}
		g.Begin(&c)
		if _, done := g.Try(&c); done {
			t.Errorf("message %d was not left to others", req[4])
		}
		g.Finish(&c)
	}
}
