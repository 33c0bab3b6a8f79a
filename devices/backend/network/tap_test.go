package network

import (
	"errors"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestTapDetached: a queue that belongs to no interface has no frames, which is no fault of the card's: the
// guest may detach one that is being read.
func TestTapDetached(t *testing.T) {
	q, err := openTapQueue(tunDevice, "none")
	if err != nil {
		testenv.Missing(t, "tun", err.Error())
	}
	defer q.close()
	frame := make([]byte, MaxFrame)
	if n, err := q.Receive(frame, false); n != 0 || err != nil {
		t.Errorf("without waiting: %d bytes, %v", n, err)
	}
	q.Interrupt()
	if n, err := q.Receive(frame, true); n != 0 || !errors.Is(err, ErrInterrupted) {
		t.Errorf("interrupted: %d bytes, %v", n, err)
	}
}
