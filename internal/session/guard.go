package session

import (
	"encoding/binary"
	"fmt"
	"io"
)

// guard watches the frames that come from the guest, and lets none through that only a
// lying agent sends: a ping (yamux starts a goroutine for each) and a stream opened by
// the guest, but for the one that carries the Hello. Between two frames it tells the mux that the agent has reset the
// streams that were dropped.
//
// A frame is a header, and after a data frame's header Length bytes. The header is
// version (1 byte), type (1), flags (2), stream (4), length (4), big-endian;
// see the yamux specification.
type guard struct {
	io.ReadWriteCloser
	dropped *dropped

	header  [frameHeader]byte
	have    int    // bytes of header read so far
	payload uint32 // bytes of the current frame's payload still to come
	greeted bool   // the Hello's stream was opened
	err     error  // what the guest did wrong
}

const (
	frameHeader = 12

	frameData         = 0
	frameWindowUpdate = 1
	frameGoAway       = 3

	flagSYN = 1
	flagRST = 8
)

// Read reads from the connection. After a bad frame it returns no more bytes.
func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	if g.dropped.waiting.Load() {
		if g.payload == 0 && g.have == 0 && len(p) >= frameHeader {
			return g.dropped.frames(p), nil
		}
		p = p[:min(len(p), g.frameLeft())] // no further than the end of the frame
	}
	n, err := g.ReadWriteCloser.Read(p)
	if g.err = g.check(p[:n]); g.err != nil {
		return 0, g.err
	}
	return n, err
}

// frameLeft returns how many bytes may be read without a look at another frame's header.
func (g *guard) frameLeft() int {
	if g.payload > 0 {
		return int(min(g.payload, 1<<30))
	}
	return frameHeader - g.have
}

// resetFrame makes a frame, a window update of nothing, that resets a stream.
func resetFrame(p []byte, id uint32) {
	clear(p[:frameHeader])
	p[1] = frameWindowUpdate
	binary.BigEndian.PutUint16(p[2:], flagRST)
	binary.BigEndian.PutUint32(p[4:], id)
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.payload > 0 {
			skip := min(uint64(g.payload), uint64(len(p)))
			g.payload -= uint32(skip)
			p = p[skip:]
			continue
		}
		n := copy(g.header[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < frameHeader {
			return nil
		}
		g.have = 0
		if err := g.checkHeader(); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) checkHeader() error {
	kind, flags := g.header[1], binary.BigEndian.Uint16(g.header[2:])
	switch kind {
	case frameData:
		g.payload = binary.BigEndian.Uint32(g.header[8:])
	case frameWindowUpdate, frameGoAway:
	default:
		return fmt.Errorf("the guest sent a frame of type %d", kind)
	}
	if flags&flagSYN == 0 {
		return nil
	}
	if g.greeted {
		return fmt.Errorf("the guest opened stream %d of its own", binary.BigEndian.Uint32(g.header[4:]))
	}
	g.greeted = true
	return nil
}
