// Package session is the host's end of the channel to the agent inside a guest: it sets
// the machine up, runs commands with separate standard streams, copies files, connects to
// addresses inside the machine and powers it off. Package agentproto defines what goes over the wire.
//
// The guest is not trusted. A message that lies about its length costs no memory, an
// agent that floods the channel or opens streams of its own ends the session, and one that
// says nothing keeps a caller waiting no longer than the caller's context.
//
// Closing order: every Process, then the Session, which closes the connection.
package session
