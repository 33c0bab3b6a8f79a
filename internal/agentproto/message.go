package agentproto

import (
	"encoding/binary"

	"fmt"
	"io"
	"syscall"

	"github.com/stile-vmm/stile/internal/bytejson"
)

// Version is the protocol's version. Both ends must have the same one: the host puts its
// own agent into the guest.
const Version = 2

// PortName is the virtio-console port that carries the channel.
const PortName = "stile.agent"

// Limits on one message's JSON, in bytes.
const (
	// MaxRequest bounds what the host sends: an argument list and an environment may
	// each be as large as execve(2) takes with its default stack limit.
	MaxRequest = 8 << 20
	// MaxReply bounds what a guest, which may lie, makes its host read at once.
	MaxReply = 64 << 10
)

const lengthSize = 4

// WriteMessage writes v as one message, in one Write. It refuses a message of more than limit bytes (E2BIG).
func WriteMessage(w io.Writer, limit int, v any) error {
	body, err := bytejson.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if len(body) > limit {
		return fmt.Errorf("%T of %d bytes is more than the %d that the channel takes: %w", v, len(body), limit, syscall.E2BIG)
	}
	frame := make([]byte, lengthSize, lengthSize+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// ReadMessage reads one message into v and not a byte more. It returns io.EOF
// when r ends before the message starts, io.ErrUnexpectedEOF when it ends inside, and an
// error for a message of more than limit bytes, before any of them is read.
func ReadMessage(r io.Reader, limit int, v any) error {
	var length [lengthSize]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(length[:])
	if uint64(size) > uint64(limit) {
		return fmt.Errorf("message of %d bytes is more than the %d that the channel takes", size, limit)
	}
	// A lying length costs no memory: the buffer grows with what arrives.
	body, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return err
	}
	if len(body) < int(size) {
		return io.ErrUnexpectedEOF
	}
	if err := bytejson.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
