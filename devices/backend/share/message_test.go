package share

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// message builds a request. Fields are uint8 to uint64 and strings.
func message(typ uint8, tag uint16, fields ...any) []byte {
	e := encoder{b: make([]byte, headerBytes)}
	for _, f := range fields {
		switch v := f.(type) {
		case uint8:
			e.u8(v)
		case uint16:
			e.u16(v)
		case uint32:
			e.u32(v)
		case uint64:
			e.u64(v)
		case string:
			e.str([]byte(v))
		case []byte:
			e.b = append(e.b, v...)
		default:
			panic("field type")
		}
	}
	binary.LittleEndian.PutUint32(e.b, uint32(len(e.b)))
	e.b[4] = typ
	binary.LittleEndian.PutUint16(e.b[5:], tag)
	return e.b
}

// guest speaks raw messages to a session.
type guest struct {
	t testing.TB
	*Session
	call    Call
	resp    []byte
	in, out [1][]byte
}

func newGuest(t testing.TB, cfg Config) *guest {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, Session: s.NewSession(), resp: make([]byte, MaxMessage)}
	t.Cleanup(func() {
		g.Session.Close()
		if g.nodes != 1 || g.handles != 0 || g.opens != 0 || g.xattrs != 0 || len(g.calls) != 0 || g.root.pins != 0 {
			t.Errorf("left at the end: %d nodes, %d handles, %d open files, %d bytes of attributes, %d calls, %d pins",
				g.nodes-1, g.handles, g.opens, g.xattrs, len(g.calls), g.root.pins)
		}
		s.Close()
	})
	g.ok(message(tversion, 0xffff, uint32(512000), "9P2000.L"))
	g.ok(message(tattach, 1, uint32(0), uint32(noFID), "root", "", uint32(1000)))
	return g
}

// exchange returns the response to a request.
func (g *guest) exchange(req []byte) []byte {
	g.in[0], g.out[0] = req, g.resp
	g.call.In, g.call.Out = g.in[:], g.out[:]
	g.Begin(&g.call)
	n := g.answer(&g.call)
	g.Finish(&g.call)
	return g.resp[:n]
}

// answer handles a call as a device does.
func (g *guest) answer(c *Call) int {
	if n, done := g.Try(c); done {
		return n
	}
	return g.Handle(c)
}

// ok returns the fields of a response that is no error.
func (g *guest) ok(req []byte) *decoder {
	g.t.Helper()
	resp := g.exchange(req)
	if len(resp) < headerBytes || int(binary.LittleEndian.Uint32(resp)) != len(resp) {
		g.t.Fatalf("message %d: response % x", req[4], resp)
	}
	if resp[4] == rlerror {
		g.t.Fatalf("message %d: %v", req[4], unix.Errno(binary.LittleEndian.Uint32(resp[headerBytes:])))
	}
	if resp[4] != req[4]+1 || resp[5] != req[5] || resp[6] != req[6] {
		g.t.Fatalf("message %d: response % x", req[4], resp[:headerBytes])
	}
	return &decoder{b: resp[headerBytes:]}
}

// fails checks that a request is answered with an error.
func (g *guest) fails(what string, req []byte, want unix.Errno) {
	g.t.Helper()
	resp := g.exchange(req)
	if len(resp) != errorBytes || resp[4] != rlerror {
		g.t.Errorf("%s: response % x, want %v", what, resp, want)
		return
	}
	if got := unix.Errno(binary.LittleEndian.Uint32(resp[headerBytes:])); got != want {
		g.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (g *guest) walkTo(from, to uint32, names ...string) {
	g.t.Helper()
	fields := []any{from, to, uint16(len(names))}
	for _, n := range names {
		fields = append(fields, n)
	}
	d := g.ok(message(twalk, 2, fields...))
	if n := d.u16(); int(n) != len(names) {
		g.t.Fatalf("walk %q: %d names found", names, n)
	}
}
