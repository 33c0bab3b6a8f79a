// Package agent is what runs as /init in a guest: it prepares the machine, and does what
// the host asks for over the channel that package agentproto defines.
//
// Any static binary can be the agent: MaybeRun, called first in its main, takes over when
// the process is a guest's PID 1. The kernel puts the words of its command line
// that it doesn't know into PID 1's environment, so the host says so with STILE_AGENT=1.
//
// The agent never returns and needs no host that behaves: a bad request is refused, and
// when the channel ends, or the agent itself fails, it powers the machine off.
package agent
