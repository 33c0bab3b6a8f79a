package usernet

import "time"

// What a guest may make this process hold. The sum is below 400 MiB, and needs a guest that has all of its
// connections full in both directions.
const (
	maxConns      = 256       // TCP connections, both directions together
	maxHandshakes = 128       // connections of the guest that are being made
	tcpBuffer     = 512 << 10 // bytes, the most for each direction of a connection
	relayBuffer   = 64 << 10  // bytes in a relay's hands for each direction

	maxFlows  = 256              // UDP: pairs of ports
	udpBuffer = 64 << 10         // bytes that wait in a flow
	udpIdle   = 60 * time.Second // until a flow that is silent ends

	maxQueries  = 64 // names asked for at the same time
	queryLimit  = 3 * time.Second
	maxResolver = 3 // name servers tried
	maxSearch   = 6 // domains in which names are looked for

	outQueue = 512     // packets that wait for the guest
	outBytes = 8 << 20 // and their bytes

	dialLimit = 20 * time.Second
	// keepAlive is how long a connection may be silent until the guest is asked whether it is still there.
	keepAlive = time.Minute
	// timeWait is how long a connection that has ended is known. The wire delays nothing.
	timeWait = time.Second
)
