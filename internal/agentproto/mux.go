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
	c.MaxStreamWindowSize = streamWindow
	return c
}

// acceptBacklog bounds the streams that one end has opened and the other has not yet
// accepted. The host lets a guest open one, so the guest is who it is for.
const acceptBacklog = 32

// streamWindow is how many bytes may be under way on a stream, and what a guest can make the host hold for each
// that the host has opened and does not read. yamux's 256 KiB are less than goes through the channel to a nested host while an
// answer takes its way: a network's frames came half as fast.
const streamWindow = 1 << 20
