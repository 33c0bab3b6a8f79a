package guest

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

// TestPulse has an agent that says hello and then nothing more.
func TestPulse(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	mux, err := yamux.Server(there, agentproto.MuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		stream, err := mux.OpenStream()
		if err != nil {
			return
		}
		_ = agentproto.WriteMessage(stream, agentproto.MaxReply, &agentproto.Hello{Version: agentproto.Version})
		stream.Close()
		for {
			s, err := mux.AcceptStream()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, s) }() // and no answer
		}
	}()
	s, err := session.Dial(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !watchPulse(t.Context(), s, time.Millisecond, 50*time.Millisecond) {
		t.Error("an agent that does not answer is taken for a living one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if watchPulse(ctx, s, time.Hour, time.Hour) {
		t.Error("an agent is said to hang that nobody waits for any more")
	}
}

// TestStalled: only progress that stays away counts.
func TestStalled(t *testing.T) {
	if !stalled(t.Context(), time.Millisecond, func() uint64 { return 7 }) {
		t.Error("no progress is not noticed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := uint64(0)
	if stalled(ctx, time.Microsecond, func() uint64 {
		if looks++; looks == 10*stallTicks {
			cancel()
		}
		return looks / (stallTicks / 2) // now and then
	}) {
		t.Error("slow progress is taken for none")
	}
}
