package agentproto

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// MuxConfig returns the settings that both ends of the channel use. A nested, emulated
// guest may stand still for a minute, so no time-out of the mux may ever fire: a lost
// machine is noticed by its channel's end, a stuck one by the caller's own deadline.
func MuxConfig() *yamux.Config {
	const never = 100 * 365 * 24 * time.Hour
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = never
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 0
	c.LogOutput = io.Discard
	c.AcceptBacklog = acceptBacklog
	return c
}

// acceptBacklog bounds the streams that one end has opened and the other has not yet
// accepted. With yamux's window of 256 KiB it bounds what a guest that opens streams
// nobody wants makes the host hold: 8 MiB.
const acceptBacklog = 32
